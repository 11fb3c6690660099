"""No encoder: the control that says what any of the others is worth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparse_encoders.contracts import DetectorParts
from sparse_encoders.encoders.base import Encoder, EncoderOutput
from sparse_encoders.registry import MODELS
from sparse_encoders.selectors.selection import LayerSelection
from sparse_encoders.tokens import TokenGrid


@MODELS.register_module()
class NoEncoder(Encoder):
    """Tokens pass as they are, from the neck to the first stage and the decoder.

    It has no layers and no parameters. Reports and pictures count it as one layer that refines
    nothing, so its Corr and its recall are 0.

    Args:
        num_levels, layer_cfg: see :class:`Encoder`; of ``layer_cfg`` only the number of
            channels matters.
    """

    def __init__(
        self,
        num_levels: int = 4,
        layer_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(1, num_levels, layer_cfg, init_cfg=init_cfg)

    def forward(self, tokens: TokenGrid, detector: DetectorParts) -> EncoderOutput:
        """(B, N, C) the tokens."""
        memory = with_positions_gradient(tokens.features, tokens) if self.training else None
        batch, device = tokens.features.shape[0], tokens.features.device
        indices = torch.zeros(batch, 0, dtype=torch.long, device=device)
        nothing = LayerSelection(indices, indices.bool(), indices.bool(), all_kept=True)
        return EncoderOutput(
            tokens.features if memory is None else memory, tokens, layers=(nothing,)
        )

    def refined_levels(self, layer: int) -> range:
        """None."""
        return range(0)


def with_positions_gradient(memory: Tensor, tokens: TokenGrid) -> Tensor:
    """(B, N, C) memory as it is, with a gradient of zero for the detector's level embedding.

    An encoder that does not read positions leaves the embedding without a gradient, for which
    distributed training would wait.
    """
    return memory + (0.0 * tokens.pos_embed[:, :1]).to(memory.dtype)
