"""Rules from released parameter names to this package's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

Renaming = Sequence[tuple[str, str]]

# First-stage projection and score MLP, with the same names in Sparse DETR and Focus-DETR.
PROJECTION_AND_SCORES: Renaming = (
    (r"transformer\.enc_output_norm\.", r"memory_trans_norm."),
    (r"transformer\.enc_output\.", r"memory_trans_fc."),
    (r"transformer\.enc_mask_predictor\.layer1\.", r"encoder.selector.score_mlp.embed."),
    (r"transformer\.enc_mask_predictor\.layer2\.", r"encoder.selector.score_mlp.head."),
)

# Encoder and selector of the released Focus-DETR.
FOCUS_ENCODER: Renaming = (
    (r"transformer\.alpha", r"encoder.selector.alpha"),
    (r"transformer\.level_embeds", r"level_embed"),
    *PROJECTION_AND_SCORES,
    (
        r"transformer\.encoder\.layers\.(\d+)\.attentions\.0\.",
        r"encoder.layers.\1.object_attention.attention.",
    ),
    (r"transformer\.encoder\.layers\.(\d+)\.attentions\.1\.", r"encoder.layers.\1.self_attn."),
    (r"transformer\.encoder\.layers\.(\d+)\.ffns\.0\.", r"encoder.layers.\1.ffn."),
    (r"transformer\.encoder\.layers\.(\d+)\.norm2\.", r"encoder.layers.\1.object_attention.norm."),
    (r"transformer\.encoder\.layers\.(\d+)\.norms\.", r"encoder.layers.\1.norms."),
)

# A layer in Deformable DETR's repository, whose names Lite DETR and Sparse DETR keep.
_LAYER = (
    ("self_attn", "self_attn"),
    ("norm1", "norms.0"),
    ("linear1", "ffn.layers.0.0"),
    ("linear2", "ffn.layers.1"),
    ("norm2", "norms.1"),
)
_LOW_LEVEL_FFN = (
    ("linear12", "low_level_ffn.layers.0.0"),
    ("linear22", "low_level_ffn.layers.1"),
    ("norm22", "low_level_norm"),
)

# Encoder of the released Lite DETR, whose names follow DINO's and Deformable DETR's.
LITE_ENCODER: Renaming = (
    (r"(?:transformer\.)?level_embeds?$", r"level_embed"),
    *(
        (rf"(?:transformer\.)?encoder\.layers\.(\d+)\.{old}\.", rf"encoder.layers.\1.{new}.")
        for old, new in (*_LAYER, *_LOW_LEVEL_FFN)
    ),
)

# Encoder, selector and auxiliary heads of the released Sparse DETR.
SPARSE_ENCODER: Renaming = (
    (r"transformer\.level_embed$", r"level_embed"),
    *PROJECTION_AND_SCORES,
    (r"transformer\.encoder\.class_embed\.(\d+)\.", r"encoder.auxiliary.cls_branches.\1."),
    *(
        (
            rf"transformer\.encoder\.bbox_embed\.(\d+)\.layers\.{layer}\.",
            rf"encoder.auxiliary.reg_branches.\1.{2 * layer}.",
        )
        for layer in range(3)
    ),
    *(
        (rf"transformer\.encoder\.layers\.(\d+)\.{old}\.", rf"encoder.layers.\1.{new}.")
        for old, new in _LAYER
    ),
)


def rename(state: Mapping[str, Tensor], renaming: Renaming) -> tuple[dict[str, Tensor], list[str]]:
    """Apply the first matching rule to each name.

    Returns:
        The renamed state, and the names that no rule matches.
    """
    renamed: dict[str, Tensor] = {}
    left_out = []
    for name, value in state.items():
        new = _new_name(name, renaming)
        if new is None:
            left_out.append(name)
        else:
            renamed[new] = value
    return renamed, left_out


def under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose names begin with ``prefix``, without it."""
    return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}


def _new_name(name: str, renaming: Iterable[tuple[str, str]]) -> str | None:
    for pattern, replacement in renaming:
        if re.match(pattern, name):
            return re.sub("^" + pattern, replacement, name)
    return None
