"""The JSON file of a check: every finished case at once, so that a later call goes on after it.

Imports nothing but the standard library: the step that builds the environment keeps its record
here, too, before the rest of this package can be imported.
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
    """Steps and their cases, each with its result or its error.

    A case is finished only for the key that it was finished with, which says what a result depends
    on: device, versions, settings. Under another key it is run again and replaced.

    Args:
        path: of the file; read where it is there.
        key: of this call.

    Raises:
        ValueError: the file is not such a record.
    """

    def __init__(self, path: Path, key: str = "") -> None:
        self.path, self.key = path, key
        self._lock = threading.Lock()  # two things may be built at once
        self.content: dict[str, Any] = {"format": FORMAT, "steps": {}}
        if path.is_file():
            try:
                found = json.loads(path.read_text())
            except ValueError as error:
                raise ValueError(f"{path} is no JSON ({error}): move it away") from None
            if not isinstance(found, dict) or found.get("format") != FORMAT:
                raise ValueError(f"{path} is not a record of this command: move it away")
            self.content = found

    def state(self, step: str, case: str) -> str | None:
        """'done', 'failed', 'begun' (cut off), or None where it was not begun with this key."""
        found = self._of(step).get(case, {})
        return found.get("state") if found.get("key") == self.key else None

    def to_do(self, step: str, cases: Iterable[str], keep_failed: bool = False) -> list[str]:
        """Those that are not done, new ones first, then those in which a call was cut off.

        Args:
            step: its name.
            cases: all of its cases.
            keep_failed: leave out what failed or was cut off before.
        """
        left = [case for case in cases if self.state(step, case) != "done"]
        if keep_failed:
            return [case for case in left if self.state(step, case) is None]
        return sorted(left, key=lambda case: self.state(step, case) == "begun")

    def failed(self, steps: Iterable[str]) -> list[str]:
        """'step: case' of what failed or was cut off with this key."""
        return [
            f"{step}: {case}"
            for step in steps
            for case in self._of(step)
            if self.state(step, case) in ("failed", "begun")
        ]

    def results(self, step: str) -> dict[str, Any]:
        """What the cases of a step with this key found, by name; parts of one that failed, too."""
        cases = self._of(step)
        return {
            name: case["result"]
            for name, case in cases.items()
            if "result" in case and self.state(step, name) is not None
        }

    def put(self, step: str, case: str, state: str, **more: Any) -> None:
        """Note a case and write the file."""
        with self._lock:
            cases = self.content["steps"].setdefault(step, {})
            cases[case] = {"state": state, "key": self.key, **more}
            self._write()

    def note(self, **more: Any) -> None:
        """Set entries of the whole file, such as the machine, and write it."""
        with self._lock:
            self.content.update(more)
            self._write()

    def _write(self) -> None:
        """Write the file in one piece: a call that is cut off leaves the former one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.content, indent=1) + "\n")
        os.replace(part, self.path)

    def _of(self, step: str) -> Mapping[str, Any]:
        cases: Mapping[str, Any] = self.content["steps"].get(step, {})
        return cases
