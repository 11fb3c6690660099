"""MMDetection's deformable encoder layer, with the attention that its config names."""

from __future__ import annotations

from mmcv.cnn import build_norm_layer
from mmdet.models.layers import DeformableDetrTransformerEncoderLayer
from mmengine.model import ModuleList

from sparse_encoders.encoders.ffn import SlicedFFN
from sparse_encoders.registry import MODELS


class EncoderLayer(DeformableDetrTransformerEncoderLayer):
    """Deformable attention, norm, FFN, norm (Zhu et al., Deformable DETR, section 4.1).

    Parameters have MMDetection's names, order and initialisation.

    Args:
        self_attn_cfg: with its ``type``, see :func:`sparse_encoders.attention.attention_config`.
        ffn_cfg: as MMDetection's, and ``slice_tokens``, see :class:`SlicedFFN`.
        norm_cfg: as MMDetection's.
    """

    def _init_layers(self) -> None:
        self.self_attn = MODELS.build(self.self_attn_cfg)
        self.embed_dims = self.self_attn.embed_dims
        self.ffn = SlicedFFN(**self.ffn_cfg)
        self.norms = ModuleList(
            build_norm_layer(self.norm_cfg, self.embed_dims)[1] for _ in range(2)
        )
