"""Training in bfloat16, on a GPU or a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner.amp import autocast


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Mixed-precision training in bfloat16, on a GPU or without one.

    Unlike MMEngine's ``AmpOptimWrapper`` it works without a GPU. To be set in a config, or by
    ``--cfg-options optim_wrapper.type=BFloat16OptimWrapper``. Weights and the optimiser's
    state stay in float32. Losses are not scaled, because bfloat16 has the range of float32.

    Args:
        optimizer: what updates the parameters.
        **kwargs: see MMEngine's ``OptimWrapper`` (clip_grad, accumulative_counts, ...).

    Raises:
        TypeError: ``loss_scale`` or ``dtype``, which cannot be set.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, **kwargs: Any) -> None:
        settled = sorted(kwargs.keys() & {"loss_scale", "dtype"})
        if settled:
            raise TypeError(
                f"optim_wrapper.{settled[0]} is no setting of BFloat16OptimWrapper: it trains in "
                "bfloat16 without loss scaling; for float16 on a GPU use AmpOptimWrapper"
            )
        super().__init__(optimizer, **kwargs)

    @contextmanager
    def optim_context(self, model: torch.nn.Module) -> Iterator[None]:
        """Inside, the model's forward pass runs under autocast, as in ``AmpOptimWrapper``."""
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield
