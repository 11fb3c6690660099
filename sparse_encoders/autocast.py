"""What must not run under autocast as the rest of a detector does: losses, boxes, rankings."""

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


def cast_floats(value: Any, dtype: torch.dtype) -> Any:
    """``value`` with every floating tensor in it as ``dtype``; itself where nothing changes.

    Args:
        value: a tensor, or a dataclass, dict, list or tuple that holds some, however
            deep; anything else is left as it is.
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
    """Like ``torch.no_grad()``, for what ranks or observes with weights that are used again.

    Autocast keeps the half-precision copy of a weight until it ends. Torch before
    December 2025 (pull request 165068) also keeps one made under ``no_grad``, and what
    uses that weight afterwards gives it no gradient. Inside ``function`` copies are neither
    kept nor taken from the store; what is in it stays.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.no_grad():
            if is_compiling():  # a traced graph has no such store
                return function(*args, **kwargs)
            before = torch.is_autocast_cache_enabled()
            torch.set_autocast_cache_enabled(False)
            try:
                return function(*args, **kwargs)
            finally:
                torch.set_autocast_cache_enabled(before)

    return call
