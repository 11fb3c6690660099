"""Rows of classes in a converted model: COCO's 80 of 91, or those of another data set."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmdet.datasets import CocoDataset
from torch import Tensor

UNUSED_NUMBERS = (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""Numbers below 91 that are not the number of a category of COCO."""

CATEGORY_NUMBERS = tuple(n for n in range(91) if n not in UNUSED_NUMBERS)
"""Numbers of COCO's 80 categories, in MMDetection's order of classes."""

_BY_CLASS = re.compile(
    r"(?P<head>(bbox_head\.cls_branches|encoder\.auxiliary\.cls_branches)\.\d+)\.(weight|bias)$"
    r"|dn_query_generator\.label_embedding\.weight$"
)
_NOT_A_CLASS = "N/A"
_PRIOR = 0.01  # initial score of every class in MMDetection's heads


@dataclass(frozen=True)
class ClassRows:
    """Rows of a file with which the classes of another data set are initialised.

    Attributes:
        rows: row of the file for each class; None: a new row.
        names: names of the classes; None if only their number is known.
        sources: the file's name of each row; None for new rows.
    """

    rows: tuple[int | None, ...]
    names: tuple[str, ...] | None = None
    sources: tuple[str | None, ...] = ()

    def __str__(self) -> str:
        if self.names is None:
            return f"{len(self.rows)} classes, all new"
        new = self.rows.count(None)
        origin = [
            name if source == name else f"{name} ({f'from {source}' if source else 'new'})"
            for name, source in zip(self.names, self.sources, strict=True)
        ]
        start = f"{len(self.rows)} classes, {len(self.rows) - new} of the file's and {new} new: "
        return start + ", ".join(origin)


def class_rows(classes: int | Sequence[str], released: int) -> ClassRows:
    """Rows for a data set of other classes than the released model's.

    Args:
        classes: their number, for new rows only; or their names in the order of the data set's
            categories. A name of COCO gets COCO's row; ``'wolf=dog'`` gives the class wolf the
            row of COCO's dog; other names get a new row.
        released: number of classes of the file's heads.

    Raises:
        ValueError: no class, a name that occurs twice, or a row that the file does not have.
    """
    if isinstance(classes, int):
        if classes < 1:
            raise ValueError(f"classes must be at least 1, got {classes}")
        return ClassRows((None,) * classes)
    known = {name: row for row, name in enumerate(class_names(released)) if name != _NOT_A_CLASS}
    split = [word.partition("=") for word in classes]
    names = tuple(name for name, _, _ in split)
    if not names or not all(names) or len(set(names)) != len(names):
        raise ValueError(f"classes must be names, each once, got {list(classes)}")
    sources = []
    for name, given, source in split:
        if given and source not in known:
            near = difflib.get_close_matches(source, known, 3)
            has = f"such as {', '.join(near)}" if near else f"{len(known)} classes with names"
            raise ValueError(f"classes: {name}={source}, but the file has no {source!r} ({has})")
        sources.append(source if given else name if name in known else None)
    rows = tuple(None if source is None else known[source] for source in sources)
    return ClassRows(rows, names, tuple(sources))


def with_classes(
    state: Mapping[str, Tensor], rows: Sequence[int | None], first_stage: str | None = None
) -> dict[str, Tensor]:
    """A converted state dict for other classes: heads, auxiliary heads, label embedding.

    New rows are initialised as in a new model of MMDetection: uniform weights, a bias that
    gives each class a score of 0.01, normal embeddings; the same in every call.

    Args:
        state: tensors by this package's names.
        rows: for each class its row of ``state``; None: a new row.
        first_stage: the head (its name without ``.weight``) whose row 0 means any object and stays
            row 0. None if the first stage predicts classes, or if there is none.
    """
    generator = torch.Generator().manual_seed(0)
    changed = dict(state)
    for name, value in sorted(state.items()):
        match = _BY_CLASS.match(name)
        if not match:
            continue
        new = _new_rows(name, value, len(rows), generator)
        agnostic = first_stage is not None and match["head"] == first_stage
        for index, row in enumerate([0, *rows[1:]] if agnostic else rows):
            if row is not None:
                new[index] = value[row]
        changed[name] = new
    return changed


def _new_rows(name: str, value: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` initial rows of a new model for the parameter ``name``."""
    if name.endswith(".bias"):
        return torch.full((count,), -math.log((1 - _PRIOR) / _PRIOR), dtype=value.dtype)
    shape = (count, *value.shape[1:])
    if "label_embedding" in name:
        return torch.randn(shape, generator=generator).to(value.dtype)
    drawn = (torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(value.shape[1])
    return drawn.to(value.dtype)


def class_agnostic_first_stage(model: Mapping[str, Any]) -> str | None:
    """The head of a first stage that ranks proposals by its row 0 alone, see :func:`with_classes`.

    Args:
        model: config of the released model.
    """
    kind = model["type"].rpartition(".")[2]
    if kind not in ("DeformableDETR", "HDETR") or model.get("class_specific_first_stage", False):
        return None
    return f"bbox_head.cls_branches.{model['decoder']['num_layers']}"


def class_names(num_classes: int) -> tuple[str, ...]:
    """MMDetection's names of a released model's classes by row; empty if they are unknown."""
    names = tuple(CocoDataset.METAINFO["classes"])
    if num_classes == len(names):
        return names
    if num_classes != 91:
        return ()
    by_number = dict(zip(CATEGORY_NUMBERS, names, strict=True))
    return tuple(by_number.get(n, _NOT_A_CLASS) for n in range(91))
