"""The results file of a GPU check, written after every case, so that a later call can resume.

It imports the standard library only: the step that builds the environment uses it before the rest
of this package can be imported.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FORMAT = 1


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

    def state(self, step: str, case: str) -> str | None:
        """'done', 'failed', 'begun' (interrupted), or None if never started with this key."""
        entry = self._cases(step).get(case, {})
        return entry.get("state") if entry.get("key") == self.key else None

    def to_do(self, step: str, cases: Iterable[str], keep_failed: bool = False) -> list[str]:
        """The cases that still have to be run; those that were interrupted come last.

        Args:
            step: name of the step.
            cases: all cases of the step.
            keep_failed: leave out cases that failed or were interrupted before.
        """
        left = [case for case in cases if self.state(step, case) != "done"]
        if keep_failed:
            return [case for case in left if self.state(step, case) is None]
        return sorted(left, key=lambda case: self.state(step, case) == "begun")

    def failed(self, steps: Iterable[str]) -> list[str]:
        """'step: case' for each case that failed or was interrupted with this key."""
        return [
            f"{step}: {case}"
            for step in steps
            for case in self._cases(step)
            if self.state(step, case) in ("failed", "begun")
        ]

    def results(self, step: str) -> dict[str, Any]:
        """Results of a step's cases with this key, including partial results of failed ones."""
        cases = self._cases(step)
        return {
            name: case["result"]
            for name, case in cases.items()
            if "result" in case and self.state(step, name) is not None
        }

    def put(self, step: str, case: str, state: str, **details: Any) -> None:
        """Store a case and write the file."""
        with self._lock:
            cases = self.content["steps"].setdefault(step, {})
            cases[case] = {"state": state, "key": self.key, **details}
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

    def _cases(self, step: str) -> Mapping[str, Any]:
        cases: Mapping[str, Any] = self.content["steps"].get(step, {})
        return cases
