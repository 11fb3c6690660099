"""Results stored between runs, so that an interrupted comparison can be continued."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sparse_encoders.analysis.report.runs import write_whole


def digest(value: Any) -> str:
    """16 hexadecimal digits that stand for a value of plain types, tuples counting as lists."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: str | Path) -> str:
    """16 hexadecimal digits that stand for a file's content."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


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
    ) -> dict[str, Any]:
        """A result, from an earlier run with the same settings or computed now.

        Args:
            kind: such as 'memory'.
            label: of the variant.
            settings: all that the result depends on.
            make: computes the result; if it raises, nothing is stored.
        """
        name = re.sub(r"[^\w.+-]", "_", f"{kind}_{label}")
        path = self.folder / f"{name}_{digest(settings)}.json"
        try:
            stored: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError):  # none, or damaged
            made = make()
            write_whole(path, json.dumps(made, indent=1))
            return made
        self.reused += 1
        return stored
