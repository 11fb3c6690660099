"""The main job: train a small pruned detector, test it, and draw what it kept.

Training and testing run by MMDetection's own command, ``mim``, in processes of
their own; this module names the data, follows their logs, and draws.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sparse_encoders.datasets.coco_folder import CocoFolder
from sparse_encoders.datasets.shapes import ShapesSettings, make_shapes_dataset

# Lines of MMEngine's log worth a reader's time; the whole log is kept in a file.
_SHOWN = {
    "train": re.compile(r"Epoch\(|Error|[Rr]esumed"),
    "test": re.compile(r"Average Precision|Error"),
}
_STAMP = re.compile(r"^\S+ \S+ - mmengine - \S*INFO\S* - ")
_KEPT = re.compile(
    r"Epoch\(\w+\)\s+\[[\d\]\[/ ]+\]|\bloss: \S+|\beta: \S+|coco/bbox_mAP(?:_50)?: \S+"
)


@dataclass
class DemoSettings:
    """What the demo runs on.

    Attributes:
        config: config to train; its data set is named by a ``coco_folder``.
        work_dir: where everything is written.
        data: the user's data set; None draws the shapes set.
        shapes: settings of the shapes set.
        pictures: held-out images to draw.
        options: further ``--cfg-options`` of MMDetection, as KEY=VALUE.
        seed: of the training.
        epochs: length of the training; None: as the config says.
        resume: go on after an interrupted run.
        gpus: GPUs to use; 0 runs on the CPU.
    """

    config: Path
    work_dir: Path
    data: CocoFolder | None = None
    shapes: ShapesSettings = field(default_factory=ShapesSettings)
    pictures: int = 8
    options: Sequence[str] = ()
    seed: int = 0
    epochs: int | None = None
    resume: bool = False
    gpus: int = 0


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured.

    Attributes:
        metrics: pycocotools' box AP as MMDetection names it, such as
            ``coco/bbox_mAP`` and ``coco/bbox_mAP_50``.
        seconds: wall time of each step.
        checkpoint: the trained weights.
        pictures: PNG files written.
    """

    metrics: dict[str, float]
    seconds: dict[str, float]
    checkpoint: Path
    pictures: list[Path]


def run_demo(settings: DemoSettings) -> DemoResult:
    """Draw or check the data, train, test, draw; print how it goes.

    Raises:
        ValueError: the data or the config is not usable, or a step failed.
    """
    check_command()
    if not settings.config.is_file():
        raise ValueError(f"config: there is no file {settings.config}")
    settings.work_dir.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    folder = settings.data or draw_shapes(settings)
    classes = folder.class_names()
    for split in ("train", "val"):
        folder.image_folder(split)
    seconds["data"] = time.perf_counter() - start
    print(f"data: classes {', '.join(classes)}; {seconds['data']:.0f} s", flush=True)

    start = time.perf_counter()
    options = [*folder_options(folder), *epoch_options(settings.epochs)]
    options += [f"randomness.seed={settings.seed}", *settings.options]
    train = ["train", "mmdet", str(settings.config), "--work-dir", str(settings.work_dir)]
    train += ["--gpus", str(settings.gpus)]
    if settings.resume:
        train.append("--resume")
    run_mim([*train, "--cfg-options", *options], settings.work_dir / "train.log")
    seconds["train"] = time.perf_counter() - start
    checkpoint = Path((settings.work_dir / "last_checkpoint").read_text().strip())

    start = time.perf_counter()
    config = settings.work_dir / settings.config.name  # as the training run resolved it
    test_dir = settings.work_dir / "test"
    test = ["test", "mmdet", str(config), "--checkpoint", str(checkpoint)]
    test += ["--work-dir", str(test_dir), "--gpus", str(settings.gpus)]
    run_mim(test, settings.work_dir / "test.log")
    metrics = newest_metrics(test_dir)
    seconds["test"] = time.perf_counter() - start

    start = time.perf_counter()
    pictures = draw_pictures(config, checkpoint, folder, settings)
    seconds["pictures"] = time.perf_counter() - start
    result = DemoResult(metrics, seconds, checkpoint, pictures)
    report(result, settings.work_dir)
    return result


def check_command() -> None:
    """Raise a ValueError where ``mim`` (openmim) or MMDetection is not installed."""
    for module, package in (("mim", "openmim"), ("mmdet", "mmdet")):
        if importlib.util.find_spec(module) is None:
            raise ValueError(f"the demo runs `mim train mmdet`, which needs {package}: set it up")


def draw_shapes(settings: DemoSettings) -> CocoFolder:
    """Draw the shapes set below the work folder, or keep it where it is there."""
    root = settings.work_dir / "shapes"

    def progress(done: int, total: int) -> None:
        if done % 100 == 0 or done == total:
            print(f"drew {done}/{total} pictures", flush=True)

    make_shapes_dataset(root, settings.shapes, progress)
    return CocoFolder(root=str(root))


def folder_options(folder: CocoFolder) -> list[str]:
    """The ``--cfg-options`` that name a data set."""
    options = []
    for name in CocoFolder.__dataclass_fields__:
        value = getattr(folder, name)
        if value is None or (name == "scale" and not value):
            continue
        if isinstance(value, (list, tuple)):
            # MMEngine reads a list of one element as that element
            value = ",".join(str(v) for v in value)
        options.append(f"coco_folder.{name}={value}")
    return options


def epoch_options(epochs: int | None) -> list[str]:
    """The ``--cfg-options`` that change the length of ``_base_/schedules/short.py``.

    Raises:
        ValueError: fewer than one epoch.
    """
    if epochs is None:
        return []
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")
    return [f"train_cfg.max_epochs={epochs}", f"param_scheduler.1.end={epochs}"]


def run_mim(arguments: Sequence[str], log: Path) -> None:
    """Run ``mim``, keep its whole log in a file and print what matters of it.

    Args:
        arguments: as for OpenMMLab's mim; its fork is given the name that it knows.
        log: the file.

    Raises:
        ValueError: it failed; with the last lines of its log.
    """
    mim = Path(sys.executable).with_name("mim")
    shown = _SHOWN[arguments[0]]
    command = [str(mim)] if mim.is_file() else ["mim"]
    arguments = [mim_name_of_mmdet() if word == "mmdet" else word for word in arguments]
    print("$ mim " + " ".join(arguments), flush=True)
    # nothing else differs from the same command by hand: threads wait as OpenMP's default says
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with (
        log.open("w") as file,
        subprocess.Popen(
            [*command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            start_new_session=True,  # so that stopping it stops what it started
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                file.write(line)
                if shown.search(line):
                    print("  " + shorten(line), flush=True)
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            raise
    if process.returncode:
        tail = "".join(log.read_text().splitlines(keepends=True)[-40:])
        raise ValueError(f"mim {arguments[0]} failed, see {log}; it ends with\n{cause(tail)}")


def mim_name_of_mmdet() -> str:
    """What the installed mim calls MMDetection: ``mmdet``, or the distribution of its fork."""
    try:
        version("onedl-mim")
    except PackageNotFoundError:
        return "mmdet"
    return "onedl-mmdetection"


def shorten(line: str) -> str:
    """A log line without its stamp; of an iteration's line, what a reader follows."""
    line = _STAMP.sub("", line.rstrip())
    if line.startswith("Epoch("):
        return "  ".join(re.sub(r"\s+", " ", match[0]) for match in _KEPT.finditer(line))
    return line


def cause(tail: str) -> str:
    """The error of the training process, without the trace of the command that ran it."""
    lines = tail.splitlines()
    errors = [n for n, line in enumerate(lines) if re.match(r"\w*(Error|Exception)\b", line)]
    return lines[errors[0]] if errors else "\n".join(lines[-15:])


def newest_metrics(folder: Path) -> dict[str, float]:
    """Metrics that the newest test run below ``folder`` wrote.

    Raises:
        ValueError: there are none.
    """
    files = sorted(folder.glob("*/*.json"), key=lambda path: path.stat().st_mtime)
    for path in reversed(files):
        found = json.loads(path.read_text().splitlines()[-1])
        if "coco/bbox_mAP_50" in found:
            return {k: float(v) for k, v in found.items() if k.startswith("coco/")}
    raise ValueError(f"the test run wrote no box AP below {folder}")


def draw_pictures(
    config: Path, checkpoint: Path, folder: CocoFolder, settings: DemoSettings
) -> list[Path]:
    """Detections on held-out images, and the tokens kept on the first of them."""
    from sparse_encoders.analysis.curves import draw_evaluations, read_evaluations
    from sparse_encoders.analysis.token_pictures import (
        draw_detection_sheet,
        draw_tokens,
        record_tokens,
        save_picture,
    )
    from sparse_encoders.loading import load_detector

    if settings.pictures < 1:
        return []
    warnings.filterwarnings("ignore", message="torch.meshgrid")  # MMDetection's, not the user's
    model = load_detector(config, checkpoint, "cuda:0" if settings.gpus else "cpu")
    images = choose_images(folder, settings.pictures)
    records = [record_tokens(model, image) for image in images]
    written = [save_picture(draw_detection_sheet(records), settings.work_dir / "detections.png")]
    for image, record in zip(images[:4], records, strict=False):
        path = settings.work_dir / f"tokens_{image.stem}.png"
        written.append(save_picture(draw_tokens(record), path))
    evaluations = read_evaluations(settings.work_dir)
    if len(evaluations) > 1:
        path = settings.work_dir / "ap_curve.png"
        written.append(save_picture(draw_evaluations(evaluations), path))
    return written


def choose_images(folder: CocoFolder, count: int) -> list[Path]:
    """Validation images with objects, drawn with a fixed seed."""
    content: dict[str, Any] = json.loads(folder.annotations("val").read_text())
    full = {a["image_id"] for a in content["annotations"]}
    names = [i["file_name"] for i in content["images"] if i["id"] in full]
    names = random.Random(0).sample(names, min(count, len(names)))
    return [folder.image_folder("val") / name for name in names]


def report(result: DemoResult, work_dir: Path) -> None:
    """Print the result and write it as ``result.json``."""
    total = sum(result.seconds.values())
    record = {"metrics": result.metrics, "seconds": result.seconds, "total_seconds": total}
    (work_dir / "result.json").write_text(json.dumps(record, indent=2) + "\n")
    times = ", ".join(f"{name} {s:.0f} s" for name, s in result.seconds.items())
    print(f"checkpoint: {result.checkpoint}")
    for path in result.pictures:
        print(f"picture: {path}")
    print(f"time: {total:.0f} s ({times})")
    print(
        f"box AP {result.metrics['coco/bbox_mAP']:.3f}, "
        f"AP50 {result.metrics['coco/bbox_mAP_50']:.3f} on the held-out images"
    )
