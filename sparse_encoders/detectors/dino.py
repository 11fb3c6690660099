"""DINO (Zhang et al., ICLR 2023) with any encoder."""

from __future__ import annotations

from typing import Any

from mmdet.models.detectors import DINO as MMDetDINO
from mmdet.structures import SampleList

from sparse_encoders.detectors.batches import with_enough_tokens
from sparse_encoders.detectors.decoders import use_published_position_head
from sparse_encoders.detectors.host import EncoderHost
from sparse_encoders.encoders.base import EncoderOutput
from sparse_encoders.registry import DETECTORS


@DETECTORS.register_module()
class DINO(EncoderHost, MMDetDINO):
    """MMDetection's DINO; ``encoder.type`` chooses how tokens are refined.

    In a config: ``type='sparse_encoders.DINO'``. With ``DenseEncoder`` (the
    default) it is MMDetection's DINO bit for bit, and loads its checkpoints; also
    on MMDetection's fork, whose own DINO differs in the decoder (see
    :class:`PublishedPositionHead`).
    """

    def _init_layers(self) -> None:
        super()._init_layers()
        use_published_position_head(self.decoder)

    def _pre_decoder(
        self, encoded: EncoderOutput, samples: SampleList | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        memory, mask, shapes = with_enough_tokens(encoded, self.num_queries)
        return self.pre_decoder(memory, mask, shapes, samples)
