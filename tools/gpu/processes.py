"""Runs commands in processes of their own, with a time limit.

It imports the standard library only: the build uses it before this package can be imported.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpu import ROOT

LIMIT = 540.0  # seconds of a command


def run(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str] | None = None,
    seconds: float = LIMIT,
) -> tuple[int, str]:
    """Run a command in the checkout; returns its exit status and its output.

    Args:
        command: program and arguments.
        log: file that the output is written to.
        environment: variables to set in addition to this process's.
        seconds: after which the command, and all that it started, is ended.

    Raises:
        TimeoutError: the command was ended.
        FileNotFoundError: the program does not exist.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    variables = {
        # programs started by name, such as mim's python, are those of this environment
        "PATH": _before(os.path.dirname(sys.executable), "PATH"),
        # works uninstalled; the sanitizer's driver is a module of this folder
        "PYTHONPATH": _before(f"{ROOT}:{ROOT / 'tools'}", "PYTHONPATH"),
        "PYTHONUNBUFFERED": "1",
    }
    with (
        log.open("w") as file,
        subprocess.Popen(
            list(command),
            cwd=ROOT,
            env={**os.environ, **variables, **(environment or {})},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # one process group: its children end with it
        ) as process,
    ):
        try:
            status = process.wait(seconds)
        except BaseException as error:  # KeyboardInterrupt, too
            os.killpg(process.pid, signal.SIGTERM)  # upon which ninja ends its compilers
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise TimeoutError(f"ended after {seconds:.0f} s, see {log}") from None
            raise
    return status, log.read_text(errors="replace")


def _before(folders: str, variable: str) -> str:
    """Value of an environment variable that lists folders, with others at its start."""
    return os.pathsep.join(filter(None, [folders, os.environ.get(variable)]))


def tail(output: str, lines: int = 25) -> str:
    """The last lines of an output."""
    return "\n".join(output.splitlines()[-lines:])
