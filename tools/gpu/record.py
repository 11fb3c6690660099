"""The results file of a GPU check, written after every case, so that a later call can resume.

It imports the standard library only: the build uses it before this package can be imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpu import ROOT

FORMAT = 1


def kernels_key() -> str:
    """Hash of the sources of the compiled operators."""
    files = [*sorted((ROOT / "csrc").rglob("*.*")), ROOT / "setup.py"]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:12]


class Record:
    """Cases of each step, with their results or errors, in a JSON file.

    Every case is stored with a key that names what its result depends on: device, versions,
    settings. A case that was stored with another key is run again and replaced.

    Args:
        path: the JSON file; read if it exists.
        key: key of this call.

    Raises:
        ValueError: the file exists and is not such a record.
    """

    def __init__(self, path: Path, key: str = "") -> None:
        self.path, self.key = path, key
        self._lock = threading.Lock()  # two builds may run at once
        self.content: dict[str, Any] = {"format": FORMAT, "steps": {}}
        if path.is_file():
            try:
                content = json.loads(path.read_text())
            except ValueError as error:
                raise ValueError(f"{path} is no valid JSON ({error}): move it away") from None
            if not isinstance(content, dict) or content.get("format") != FORMAT:
                raise ValueError(f"{path} is not a record of this command: move it away")
            self.content = content

    def cases(self, step: str) -> dict[str, dict[str, Any]]:
        """Cases of a step with this key; ``state``: 'done', 'failed', or 'begun' (interrupted)."""
        cases = self.content["steps"].get(step, {})
        return {name: case for name, case in cases.items() if case["key"] == self.key}

    def to_do(self, step: str, names: Iterable[str], keep_failed: bool = False) -> list[str]:
        """Those of a step's cases that still have to be run; what was interrupted comes last.

        ``keep_failed`` leaves out cases that failed or were interrupted before.
        """
        states = {name: case["state"] for name, case in self.cases(step).items()}
        if keep_failed:
            return [name for name in names if name not in states]
        left = [name for name in names if states.get(name) != "done"]
        return sorted(left, key=lambda name: states.get(name) == "begun")

    def failed(self, steps: Iterable[str]) -> list[str]:
        """'step: case' for each case that failed or was interrupted."""
        return [
            f"{step}: {name}"
            for step in steps
            for name, case in self.cases(step).items()
            if case["state"] != "done"
        ]

    def results(self, step: str) -> dict[str, Any]:
        """Results of a step's cases, including partial results of failed ones."""
        cases = self.cases(step).items()
        return {name: case["result"] for name, case in cases if "result" in case}

    def put(self, step: str, name: str, state: str, **details: Any) -> None:
        """Store a case and write the file."""
        with self._lock:
            cases = self.content["steps"].setdefault(step, {})
            cases[name] = {"state": state, "key": self.key, **details}
            self._write()

    def note(self, **entries: Any) -> None:
        """Set top-level entries, such as the machine, and write the file."""
        with self._lock:
            self.content.update(entries)
            self._write()

    def _write(self) -> None:
        """Replace the file atomically: an interrupted call leaves the previous one intact."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.content, indent=1) + "\n")
        os.replace(part, self.path)
