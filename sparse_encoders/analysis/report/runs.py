"""Training runs as small files, with their settings and their accuracy."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

#: names of the files, below a folder of the variant
PATTERN = "seed-*.json"


@dataclass
class Run:
    """One training of one variant, with its accuracy.

    Attributes:
        encoder: name of the variant.
        seed: of the training; None for weights from elsewhere.
        settings: all that its accuracy depends on but the seed: data, model, training, testing.
        data: what accuracy is measured on: name, classes, counts.
        weights: source, epochs, iterations, batch, schedule, seconds, losses, finite,
            trained_keep_ratio, trained_keep_range.
        accuracy: keep ratio ('' where nothing is pruned) to ``metrics``, ``resamples``, ``images``.
        machine: that trained, with versions.
        made: when, as a text.
    """

    encoder: str
    seed: int | None
    settings: dict[str, Any]
    data: dict[str, Any]
    weights: dict[str, Any]
    accuracy: dict[str, dict[str, Any]] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    made: str = ""

    def of(self, keep_ratio: float | None) -> dict[str, Any] | None:
        """Accuracy at a keep ratio, with the seed; None where it was not measured."""
        accuracy = self.accuracy.get(ratio_key(keep_ratio))
        return None if accuracy is None else {**accuracy, "seed": self.seed}

    def write(self, path: Path) -> None:
        """Write the file, see :func:`write_whole`."""
        write_whole(path, json.dumps(asdict(self), default=str))


def write_whole(path: Path, text: str) -> None:
    """Write a text file; after an interruption there is the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(text + "\n")
    os.replace(partial, path)


def ratio_key(keep_ratio: float | None) -> str:
    """Key of the accuracy at a keep ratio."""
    return "" if keep_ratio is None else f"{keep_ratio:g}"


def read_run(path: Path) -> Run:
    """A run from its file.

    Raises:
        ValueError: the file holds none.
    """
    try:
        return Run(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is no training run of a comparison: {error!r}") from error


def read_runs(folder: Path) -> dict[Path, Run]:
    """All runs below a folder, by file.

    Raises:
        ValueError: there is none, or a file holds none.
    """
    files = sorted(folder.rglob(PATTERN), key=lambda path: (path.parent, len(path.name), path))
    if not files:
        raise ValueError(f"{folder} holds no training run ({PATTERN})")
    return {path: read_run(path) for path in files}


def first_difference(mine: Any, theirs: Any, name: str = "") -> str | None:
    """The first difference between two settings, such as 'model.num_queries is 60, here 100'."""
    if isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        mine, theirs = dict(enumerate(mine)), dict(enumerate(theirs))
    if not isinstance(mine, Mapping) or not isinstance(theirs, Mapping):
        same = mine == theirs
        return None if same else f"{name} is {reprlib.repr(theirs)}, here {reprlib.repr(mine)}"
    parts = (
        first_difference(mine.get(key), theirs.get(key), f"{name}.{key}".lstrip("."))
        for key in {**mine, **theirs}
    )
    return next(filter(None, parts), None)
