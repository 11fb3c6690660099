"""What must not run under autocast as the rest of a detector does: losses, boxes, rankings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")
R = TypeVar("R")


def precisely(call: Callable[[T], R], inputs: T, owner: nn.Module) -> R:
    """``call(inputs)`` outside of autocast, in the dtype of the weights: float32 in training.

    Losses and boxes are computed this way. In bfloat16 a head's boxes would be rounded
    to pixels, and MMCV's focal loss takes no bfloat16 on a GPU.

    Args:
        call: a head, a loss, or what calls one.
        inputs: what it takes; the floating tensors in it (in dataclasses, dicts, lists
            and tuples) are cast.
        owner: whose weights they meet; its first parameter gives device and dtype.
    """
    weight = next(owner.parameters())
    with torch.autocast(weight.device.type, enabled=False):
        return call(cast_floats(inputs, weight.dtype))


def cast_floats(value: T, dtype: torch.dtype) -> T:
    """``value`` with every floating tensor in it as ``dtype``; itself where nothing changes.

    Args:
        value: a tensor, or a dataclass, dict, list or tuple that holds some, however
            deep; anything else is left as it is.
        dtype: a floating dtype.
    """
    known: Any = value
    if isinstance(known, Tensor):
        return known.to(dtype) if known.is_floating_point() else known
    if is_dataclass(known) and not isinstance(known, type):
        old = {field.name: getattr(known, field.name) for field in fields(known)}
        new = cast_floats(old, dtype)
        return known if new is old else replace(known, **new)
    if type(known) is dict:
        found = {key: cast_floats(item, dtype) for key, item in known.items()}
        return known if all(found[key] is known[key] for key in known) else found
    if type(known) in (list, tuple):
        items = [cast_floats(item, dtype) for item in known]
        same = all(new is old for new, old in zip(items, known, strict=True))
        return known if same else type(known)(items)
    return value


@contextmanager
def no_cast_cache() -> Iterator[None]:
    """Run weights under ``no_grad`` so that their later use under autocast keeps its gradient.

    Autocast keeps the half-precision copy of a weight until it ends. Torch before
    December 2025 (pull request 165068) also keeps one made under ``no_grad``, and what
    uses that weight afterwards gives it no gradient. Inside this block copies are neither
    kept nor taken from the store; what is in it stays. A compiler that traces has no store.
    """
    if torch.compiler.is_compiling():
        yield
        return
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
