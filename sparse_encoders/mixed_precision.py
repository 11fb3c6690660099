"""Training in bfloat16, on a GPU or a CPU."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS

from sparse_encoders.compat import disabled_scaler


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(AmpOptimWrapper):
    """MMEngine's mixed-precision training in bfloat16, on a GPU or without one.

    Unlike ``AmpOptimWrapper`` it works without a GPU. To be set in a config, or by
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
        OptimWrapper.__init__(self, optimizer, **kwargs)
        self.cast_dtype = torch.bfloat16
        self.loss_scaler = disabled_scaler()
        self._scale_update_param = None
