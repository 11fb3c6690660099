"""Runs commands of a step in processes of their own, with a time limit.

It imports the standard library only, as build.py uses it before the package is built.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpu.settings import Settings


def run(
    command: Sequence[str],
    log: Path,
    settings: Settings,
    environment: Mapping[str, str] | None = None,
    timeout: float = 540.0,
    stop_after: float | None = None,
) -> tuple[int, str]:
    """Run a command in the checkout and write its output to a log file.

    Args:
        command: program and arguments.
        log: the log file.
        settings: ``root`` is the checkout.
        environment: variables to set in addition to this process's.
        timeout: seconds after which the command is ended and counts as failed.
        stop_after: seconds after which it is ended and counts as successful; replaces ``timeout``.

    Returns:
        Exit status, 0 for a command ended by ``stop_after``, and output.

    Raises:
        TimeoutError: the command ran longer than ``timeout``.
        FileNotFoundError: the program does not exist.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    variables = {
        # programs started by name, such as mim's python, are those of this environment
        "PATH": _before(os.path.dirname(sys.executable), "PATH"),
        # works uninstalled; the driver is a module of this folder
        "PYTHONPATH": _before(f"{settings.root}:{settings.root / 'tools'}", "PYTHONPATH"),
        "PYTHONUNBUFFERED": "1",
    }
    with (
        log.open("w") as file,
        subprocess.Popen(
            list(command),
            cwd=settings.root,
            env={**os.environ, **variables, **(environment or {})},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # one process group: its children end with it
        ) as process,
    ):
        status = wait(process, timeout if stop_after is None else stop_after)
    if status is None and stop_after is None:
        raise TimeoutError(f"ended after {timeout:.0f} s, see {log}")
    return status or 0, log.read_text(errors="replace")


def _before(folder: str, variable: str) -> str:
    """Value of an environment variable that lists folders, with one more at its start."""
    return os.pathsep.join(filter(None, [folder, os.environ.get(variable)]))


def wait(process: subprocess.Popen[bytes], seconds: float | None) -> int | None:
    """Exit status of a process that leads a group; None if it was still running after the time.

    Then, and when an exception such as KeyboardInterrupt stops the wait, the group is ended.
    """
    try:
        return process.wait(seconds)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGTERM)  # upon which ninja ends its compilers
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        if isinstance(error, subprocess.TimeoutExpired):
            return None
        raise


def tail(output: str, lines: int = 25) -> str:
    """The last lines of an output."""
    return "\n".join(output.splitlines()[-lines:])
