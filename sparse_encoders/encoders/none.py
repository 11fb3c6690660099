"""No encoder, as a control in comparisons."""

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
    """Passes the neck's tokens to the first stage and the decoder unchanged.

    It has no layers and no parameters. Reports and pictures count it as one layer that refines no
    tokens, so its Corr and its recall are 0.

    Args:
        num_levels, layer_cfg: see :class:`Encoder`; only the channels of ``layer_cfg`` are read.
    """

    def __init__(
        self,
        num_levels: int = 4,
        layer_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(1, num_levels, layer_cfg, init_cfg=init_cfg)

    def forward(self, tokens: TokenGrid, detector: DetectorParts) -> EncoderOutput:
        """The input as memory; see :meth:`Encoder.forward`."""
        memory = with_pos_embed_gradient(tokens.features, tokens) if self.training else None
        batch, device = tokens.features.shape[0], tokens.features.device
        indices = torch.zeros(batch, 0, dtype=torch.long, device=device)
        nothing = LayerSelection(indices, indices.bool(), indices.bool(), all_kept=True)
        return EncoderOutput(
            tokens.features if memory is None else memory, tokens, layers=(nothing,)
        )

    def refined_levels(self, layer: int) -> range:
        """No levels."""
        return range(0)


def with_pos_embed_gradient(memory: Tensor, tokens: TokenGrid) -> Tensor:
    """(B, N, C) memory unchanged, with a zero gradient for the detector's level embedding.

    An encoder that does not read ``pos_embed`` would leave the level embedding without a gradient,
    and distributed training waits for a gradient of every parameter.
    """
    return memory + (0.0 * tokens.pos_embed[:, :1]).to(memory.dtype)
