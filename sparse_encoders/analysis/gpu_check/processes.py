"""Commands that a step runs in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sparse_encoders.analysis.gpu_check.settings import Settings


def run(
    command: Sequence[str],
    log: Path,
    settings: Settings,
    environment: Mapping[str, str] | None = None,
    longest: float = 540.0,
    enough: float | None = None,
) -> tuple[int, str]:
    """Run a command in the checkout, its output into a file.

    Args:
        command: program and arguments.
        log: the file.
        settings: where the checkout is.
        environment: variables beside this process's.
        longest: seconds after which it is ended.
        enough: seconds after which it is ended and has done what it was to do.

    Returns:
        Its exit status, 0 where it was ended after ``enough``, and its output.

    Raises:
        TimeoutError: it took longer.
        FileNotFoundError: there is no such program.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    start, limit = time.monotonic(), longest if enough is None else enough
    own = {
        # what is started by name, such as mim's python, is this environment's
        "PATH": _before(os.path.dirname(sys.executable), "PATH"),
        "PYTHONPATH": _before(str(settings.root), "PYTHONPATH"),  # it need not be installed
        "PYTHONUNBUFFERED": "1",
    }
    with (
        log.open("w") as file,
        subprocess.Popen(
            list(command),
            cwd=settings.root,
            env={**os.environ, **own, **(environment or {})},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that ending it ends what it started
        ) as process,
    ):
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            _end(process)
            if enough is None:
                seconds = time.monotonic() - start
                raise TimeoutError(f"ended after {seconds:.0f} s, see {log}") from None
            status = 0
        except BaseException:
            _end(process)
            raise
    return status, log.read_text(errors="replace")


def _before(folder: str, variable: str) -> str:
    """A variable that lists folders, with another one first."""
    return os.pathsep.join(filter(None, [folder, os.environ.get(variable)]))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def tail(output: str, lines: int = 25) -> str:
    """The end of an output."""
    return "\n".join(output.splitlines()[-lines:])
