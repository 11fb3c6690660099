"""Checks shared by the public operators; each message names the argument, got and wanted."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def check_dim(name: str, tensor: Tensor, layout: str) -> None:
    """Check the number of dimensions against a layout such as '(B, N, M, D)'.

    Raises:
        TypeError: not a tensor, or not a floating-point one.
        ValueError: another number of dimensions.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor {layout}, got {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor {layout}, got {tensor.dtype}")
    if tensor.dim() != layout.count(",") + 1:
        raise ValueError(f"{name} must be {layout}, got shape {tuple(tensor.shape)}")


def check_shape(name: str, tensor: Tensor, layout: str, wanted: tuple[int, ...]) -> None:
    """Check the whole shape.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: another shape than ``wanted``.
    """
    check_dim(name, tensor, layout)
    if tuple(tensor.shape) != tuple(wanted):
        raise ValueError(f"{name} must be {layout} = {wanted}, got {tuple(tensor.shape)}")


def check_levels(shapes: Sequence[tuple[int, int]], tokens: int) -> list[int]:
    """Check the level shapes against the number of tokens and give them as [h0, w0, h1, w1, ...].

    Raises:
        TypeError: something else than pairs.
        ValueError: no level, a level without tokens, or another sum of h * w than ``tokens``.
    """
    if len(shapes) == 0:
        raise ValueError("shapes must hold (h, w) of at least one level, got none")
    if any(not isinstance(shape, (tuple, list)) or len(shape) != 2 for shape in shapes):
        raise TypeError(f"shapes must be (h, w) pairs, got {shapes}")
    if any(h < 1 or w < 1 for h, w in shapes):
        raise ValueError(f"every level in shapes must be at least 1 x 1, got {tuple(shapes)}")
    total = sum(h * w for h, w in shapes)
    if total != tokens:
        raise ValueError(f"shapes {tuple(shapes)} hold {total} tokens, value holds {tokens}")
    return [side for shape in shapes for side in shape]


def check_devices(**tensors: Tensor) -> None:
    """Check that all tensors are on the device of the first.

    Raises:
        ValueError: one is elsewhere.
    """
    (first, where), *others = tensors.items()
    for name, tensor in others:
        if tensor.device != where.device:
            raise ValueError(
                f"{name} must be on {first}'s device {where.device}, got {tensor.device}"
            )
