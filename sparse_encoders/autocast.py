"""Parts of a detector that need other rules under autocast: losses, boxes, rankings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from sparse_encoders.compat import is_compiling

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")


def in_float32(call: Callable[[T], R], inputs: T, owner: nn.Module) -> R:
    """``call(inputs)`` outside of autocast, in the dtype of the weights: float32 in training.

    Losses and boxes are computed this way, because bfloat16 would round boxes to whole pixels and
    MMCV's focal loss has no bfloat16 kernel on a GPU.

    Args:
        call: a function that calls a head or a loss.
        inputs: its argument; floating-point tensors in it (in dataclasses, dicts, lists
            and tuples) are cast.
        owner: the module whose weights are used; its first parameter gives device and dtype.
    """
    weight = next(owner.parameters())
    with torch.autocast(weight.device.type, enabled=False):
        return call(cast_floats(inputs, weight.dtype))


def cast_floats(value: Any, dtype: torch.dtype) -> Any:
    """``value`` with every floating-point tensor in it as ``dtype``; itself if none changes.

    Args:
        value: a tensor, or a dataclass, dict, list or tuple with tensors at any
            depth; other objects are returned unchanged.
        dtype: a floating dtype.
    """
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if is_dataclass(value) and not isinstance(value, type):
        old = {field.name: getattr(value, field.name) for field in fields(value)}
        new = cast_floats(old, dtype)
        return value if new is old else replace(value, **new)
    if type(value) is dict:
        cast = {key: cast_floats(item, dtype) for key, item in value.items()}
        return value if all(cast[key] is value[key] for key in value) else cast
    if type(value) in (list, tuple):
        items = [cast_floats(item, dtype) for item in value]
        same = all(new is old for new, old in zip(items, value, strict=True))
        return value if same else type(value)(items)
    return value


def without_gradient(function: Callable[P, R]) -> Callable[P, R]:
    """``torch.no_grad()`` for functions whose weights also get a gradient elsewhere.

    Autocast caches the half-precision copy of a weight. Torch before December 2025 (pull request
    165068) also caches a copy made under ``no_grad``, and later uses of that weight then give it no
    gradient. The autocast cache is switched off inside ``function``; its entries stay.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.no_grad():
            if is_compiling():  # a traced graph has no such cache
                return function(*args, **kwargs)
            before = torch.is_autocast_cache_enabled()
            torch.set_autocast_cache_enabled(False)
            try:
                return function(*args, **kwargs)
            finally:
                torch.set_autocast_cache_enabled(before)

    return call
