"""Run a model for the shapes of its tensors only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

LARGE = 2**12


class ShapesOnly(TorchDispatchMode):
    """Inside, an operation on a large floating-point tensor returns zeros of the right shape.

    Nothing is computed and no memory is held for it. Small tensors and integer tensors, on which
    shapes depend (level sizes, indices, masks), are computed as usual. torch's FakeTensorMode has
    no values at all and fails in MMDetection's ``torch._shape_as_tensor``.
    """

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if not any(_is_large(leaf) for leaf in tree_flatten((args, kwargs))[0]):
            return func(*args, **kwargs)
        aliases = [a.alias_info for a in func._schema.arguments if a.alias_info is not None]
        if any(alias.is_write for alias in aliases):
            return args[0]  # in place: the shape stays
        if aliases:
            return func(*args, **kwargs)  # a view
        try:
            on_meta = tree_map_only(Tensor, lambda t: t.to("meta"), (args, kwargs))
            shapes = func(*on_meta[0], **{**on_meta[1], **_on_meta(kwargs)})
        except NotImplementedError:  # an operator without a rule for shapes
            return func(*args, **kwargs)
        return tree_map_only(Tensor, lambda t: zeros(t.shape, t.dtype), shapes)


def zeros(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros on the CPU; large tensors are one expanded number, which takes no memory."""
    if prod(shape) < LARGE:
        return torch.zeros(tuple(shape), dtype=dtype)
    return torch.zeros((), dtype=dtype).expand(tuple(shape))


def _is_large(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel() >= LARGE


def _on_meta(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Replacement of a ``device`` argument."""
    return {"device": torch.device("meta")} if kwargs.get("device") is not None else {}
