"""AdamW as one fused operation for all parameters, if torch has it for their device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from mmengine.registry import OPTIMIZERS


@OPTIMIZERS.register_module()
class FusedAdamW(torch.optim.AdamW):
    """``AdamW(fused=True)`` if torch has it for the parameters' device, else ``AdamW``.

    On a CPU the fused form needs torch 2.4. Both compute the same
    (Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019, Algorithm 2), up to
    rounding.

    Args:
        params: parameters or groups of them.
        **settings: of ``torch.optim.AdamW`` (lr, betas, eps, weight_decay, amsgrad).
    """

    def __init__(self, params: Iterable[Any], **settings: Any) -> None:
        groups = list(params)
        try:
            # copies: the optimiser fills its settings into what it is given
            super().__init__(
                [dict(g) if isinstance(g, dict) else g for g in groups], fused=True, **settings
            )
        except RuntimeError:  # no fused form for these parameters
            super().__init__(groups, **settings)
