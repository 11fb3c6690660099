"""Results stored between runs, so that an interrupted comparison can be continued."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def digest(value: Any) -> str:
    """16 hexadecimal digits that stand for a value of plain types, tuples counting as lists."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: str | Path) -> str:
    """16 hexadecimal digits that stand for a file's content."""
    content = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            content.update(block)
    return content.hexdigest()[:16]


class Store:
    """JSON files below a folder, one for each result, with a digest of its settings in the name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: results taken from an earlier run
        self.reused = 0

    def keep(
        self,
        kind: str,
        label: str,
        settings: Mapping[str, Any],
        make: Callable[[], dict[str, Any]],
    ) -> tuple[dict[str, Any], bool]:
        """A result, from an earlier run with the same settings or computed now.

        Args:
            kind: such as 'accuracy'.
            label: of the variant.
            settings: all that the result depends on.
            make: computes the result; if it raises, nothing is stored.

        Returns:
            The result, and whether it is from an earlier run.
        """
        name = re.sub(r"[^\w.+-]", "_", f"{kind}_{label}")
        path = self.folder / f"{name}_{digest(settings)}.json"
        try:
            stored: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError):  # none, or cut off while it was written
            pass
        else:
            self.reused += 1
            return stored, True
        made = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(made, indent=1) + "\n")
        os.replace(partial, path)
        return made, False
