"""OpenMMLab's command ``mim`` in a separate process, and the records in its work folders."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

#: entries of MMEngine's scalars.json that are shown as progress
SHOWN = ("coco/bbox_mAP", "coco/bbox_mAP_50", "loss", "beta", "time")
SCALARS = "*/vis_data/scalars.json"


def check_command() -> None:
    """Raise a ValueError if ``mim`` (openmim) or MMDetection is not installed."""
    for module, package in (("mim", "openmim"), ("mmdet", "mmdet")):
        if importlib.util.find_spec(module) is None:
            raise ValueError(f"training runs `mim train mmdet`, which needs {package}: set it up")


def mim_name_of_mmdet() -> str:
    """Name of MMDetection for the installed mim: ``mmdet``, or the distribution of its fork."""
    try:
        version("onedl-mim")
    except PackageNotFoundError:
        return "mmdet"
    return "onedl-mmdetection"


def run_mim(arguments: Sequence[str], log: Path, pause: float = 0.5) -> None:
    """Run ``mim``, keep its output in a file, and print how it goes.

    Progress is read from what MMEngine's runner records in the work folder.

    Args:
        arguments: as for OpenMMLab's mim; its fork is given the name that it knows.
        log: the file.
        pause: seconds between two looks at the records.

    Raises:
        ValueError: it failed; with the error in its output.
    """
    mim = Path(sys.executable).with_name("mim")
    arguments = [mim_name_of_mmdet() if word == "mmdet" else word for word in arguments]
    print("$ mim " + " ".join(arguments), flush=True)
    follow = _Follower(arguments)
    with (
        log.open("w") as file,
        subprocess.Popen(
            [str(mim) if mim.is_file() else "mim", *arguments],
            stdout=file,
            stderr=subprocess.STDOUT,
            # nothing else differs from the same command by hand: threads wait as they do there
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # so that stopping it stops what it started
        ) as process,
    ):
        try:
            while process.poll() is None:
                follow.show()
                time.sleep(pause)
            follow.show()
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            raise
    if process.returncode:
        tail = "\n".join(log.read_text().splitlines()[-40:])
        raise ValueError(f"mim {arguments[0]} failed, see {log}; it ends with\n{cause(tail)}")


class _Follower:
    """Prints the records of a run as they are written, those of earlier runs left out."""

    def __init__(self, arguments: Sequence[str]) -> None:
        given = dict(pairwise(arguments))
        self.evaluates = "test" if arguments[0] == "test" else "val"
        self.folder = Path(given.get("--work-dir", "."))
        self.done = {path: len(path.read_text()) for path in self.folder.glob(SCALARS)}

    def show(self) -> None:
        for path in sorted(self.folder.glob(SCALARS)):
            done = self.done.setdefault(path, 0)
            text = path.read_text()[done:]
            whole = text[: text.rfind("\n") + 1]  # the last line may be half written
            self.done[path] += len(whole)
            for line in whole.splitlines():
                print("  " + describe(json.loads(line), self.evaluates), flush=True)


def describe(record: Mapping[str, Any], evaluates: str = "val") -> str:
    """A record of scalars.json in a line: where the run is, and what a reader follows."""
    where = f"Epoch({evaluates}) [{record.get('step', 0)}]"
    if "epoch" in record:
        where = f"Epoch(train) [{record['epoch']}][{record['iter']}]"
    return "  ".join([where, *(f"{key}: {record[key]:.4f}" for key in SHOWN if key in record)])


def cause(tail: str) -> str:
    """The error of the training process, without the trace of the command that ran it."""
    lines = tail.splitlines()
    errors = [line for line in lines if line.split(":")[0].endswith(("Error", "Exception"))]
    named = [line for line in errors if " " not in line.split(":")[0]]
    return named[0] if named else "\n".join(lines[-15:])


def read_scalars(work_dir: Path) -> Iterator[dict[str, Any]]:
    """What MMEngine recorded of all runs below ``work_dir``, in their order."""
    for path in sorted(work_dir.glob(SCALARS)):
        yield from map(json.loads, path.read_text().splitlines())


def last_checkpoint(work_dir: Path) -> Path:
    """The newest checkpoint; ``work_dir`` may have been moved since."""
    return work_dir / Path((work_dir / "last_checkpoint").read_text().strip()).name
