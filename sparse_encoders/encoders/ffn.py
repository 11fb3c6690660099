"""MMCV's FFN computed in slices of tokens, with less memory traffic on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from mmcv.cnn.bricks.transformer import FFN
from torch import Tensor

from sparse_encoders.compat import is_compiling


class SlicedFFN(FFN):
    """An FFN whose hidden features stay in the processor's caches.

    Slices are used for inference on a CPU only: a backward pass needs all hidden features anyway,
    and a compiled or exported graph should not contain a loop. Tokens do not depend on each other,
    so the result is the same up to rounding (the matrix product may sum in another order).

    Args:
        *args: see MMCV's FFN, which also names and initialises the parameters.
        slice_tokens: tokens of a slice; 0: all at once.
        **kwargs: see ``*args``.
    """

    def __init__(self, *args: Any, slice_tokens: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slice_tokens = slice_tokens

    def forward(self, x: Tensor, identity: Tensor | None = None) -> Tensor:
        """(B, N, C) to (B, N, C): ``x + FFN(x)``, see MMCV's FFN."""
        tokens = x.shape[:-1].numel()
        if identity is not None or not 0 < self.slice_tokens < tokens or not _may_cut(x):
            whole: Tensor = super().forward(x, identity)
            return whole
        parts = []
        for rows in x.flatten(0, -2).split(self.slice_tokens):
            parts.append(super().forward(rows))
        return torch.cat(parts).unflatten(0, x.shape[:-1])


def _may_cut(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.jit.is_tracing()
        and not is_compiling()
    )
