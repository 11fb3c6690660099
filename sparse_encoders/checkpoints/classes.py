"""COCO's 91 category numbers and the 80 of them that are categories."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from mmdet.datasets import CocoDataset
from torch import Tensor

UNUSED_NUMBERS = (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""Numbers below 91 that no category of COCO has."""

CATEGORY_NUMBERS = tuple(n for n in range(91) if n not in UNUSED_NUMBERS)
"""The 80 categories' numbers, in MMDetection's order of classes."""

_BY_CLASS = re.compile(
    r"(bbox_head\.cls_branches|encoder\.auxiliary\.cls_branches)\.\d+\.(weight|bias)$"
    r"|dn_query_generator\.label_embedding\.weight$"
)


def coco_classes_only(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A converted state dict of 91 classes with the rows of COCO's 80 categories.

    Releases of Deformable DETR's kind number classes as COCO does; MMDetection counts
    them from 0. The other rows are of numbers that no box ever had.

    Raises:
        ValueError: heads of another number of classes.
    """
    rows = torch.tensor(CATEGORY_NUMBERS)
    cut = dict(state)
    for name, value in state.items():
        if not _BY_CLASS.match(name):
            continue
        if value.shape[0] != 91:
            raise ValueError(
                f"only heads of COCO's 91 category numbers can be cut to its 80 categories, "
                f"{name} has {value.shape[0]} rows"
            )
        cut[name] = value[rows]
    return cut


def dataset_meta(num_classes: int) -> dict[str, Any]:
    """MMDetection's ``dataset_meta`` of a released model; empty for classes unknown here."""
    names = CocoDataset.METAINFO["classes"]
    if num_classes == len(names):
        return {"classes": tuple(names)}
    if num_classes != 91:
        return {}
    by_number = dict(zip(CATEGORY_NUMBERS, names, strict=True))
    return {"classes": tuple(by_number.get(n, "N/A") for n in range(91))}
