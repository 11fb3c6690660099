"""Rules from the names of released detectors to this package's.

Two conventions cover the releases: detrex's (detectron2's ResNet, attentions and
FFNs in lists) and that of Deformable DETR's repository (torchvision's ResNet,
``self_attn``, ``linear1``, ...), which DINO, Lite DETR and Sparse DETR follow.
"""

from __future__ import annotations

import re

from sparse_encoders.checkpoints.families import FAMILIES
from sparse_encoders.checkpoints.names import (
    FOCUS_ENCODER,
    LITE_ENCODER,
    SPARSE_ENCODER,
    Renaming,
)
from sparse_encoders.checkpoints.names_backbones import (
    DETECTRON_RESNET,
    DETREX_NECK,
    TORCHVISION_RESNET,
    official_neck,
)


def _box_branches(old: str, new: str) -> Renaming:
    """The linear layers of an MLP, which have the indices 0, 2 and 4 here."""
    return tuple((rf"{old}\.layers\.{i}\.", rf"{new}.{2 * i}.") for i in range(3))


def _head(decoder_layers: int) -> Renaming:
    """Branches of the decoder layers and of the first stage."""
    numbers = "|".join(str(i) for i in range(decoder_layers + 1))
    return (
        (rf"class_embed\.({numbers})\.", r"bbox_head.cls_branches.\1."),
        *_box_branches(rf"bbox_embed\.({numbers})", r"bbox_head.reg_branches.\1"),
    )


_TWO_STAGE: Renaming = (
    (r"transformer\.enc_output\.", r"memory_trans_fc."),
    (r"transformer\.enc_output_norm\.", r"memory_trans_norm."),
    (r"transformer\.pos_trans\.", r"pos_trans_fc."),
    (r"transformer\.pos_trans_norm\.", r"pos_trans_norm."),
)
_QUERIES: Renaming = (
    (r"(?:transformer\.)?tgt_embed\.", r"query_embedding."),
    (r"query_embed(?:ding)?\.", r"query_embedding."),
    (r"refpoint_embed\.", r"anchor_embedding."),
    (
        r"(?:label_enc|denoising_generator\.label_encoder|label_encoder)\.",
        r"dn_query_generator.label_embedding.",
    ),
    (
        r"transformer\.decoder\.(ref_point_head|query_scale|norm)\.",
        r"decoder.\1.",
    ),
)

DETREX: Renaming = (
    *DETECTRON_RESNET,
    *DETREX_NECK,
    (r"transformer\.level_embeds", r"level_embed"),
    (r"transformer\.encoder\.layers\.(\d+)\.attentions\.0\.", r"encoder.layers.\1.self_attn."),
    (r"transformer\.(encoder|decoder)\.layers\.(\d+)\.ffns\.0\.", r"\1.layers.\2.ffn."),
    (r"transformer\.(encoder|decoder)\.layers\.(\d+)\.norms\.", r"\1.layers.\2.norms."),
    (r"transformer\.decoder\.layers\.(\d+)\.attentions\.0\.", r"decoder.layers.\1.self_attn."),
    (r"transformer\.decoder\.layers\.(\d+)\.attentions\.1\.", r"decoder.layers.\1.cross_attn."),
    *_TWO_STAGE,
    *_QUERIES,
)

# norm1 belongs to cross-attention in these names, norm2 to self-attention
_OFFICIAL_DECODER: Renaming = tuple(
    (rf"transformer\.decoder\.layers\.(\d+)\.{old}", rf"decoder.layers.\1.{new}")
    for old, new in (
        (r"self_attn\.", "self_attn.attn."),
        (r"cross_attn\.", "cross_attn."),
        (r"norm1\.", "norms.1."),
        (r"norm2\.", "norms.0."),
        (r"norm3\.", "norms.2."),
        (r"linear1\.", "ffn.layers.0.0."),
        (r"linear2\.", "ffn.layers.1."),
    )
)


def official(encoder: Renaming, decoder_layers: int, outputs: int = 3, levels: int = 4) -> Renaming:
    """Rules for the convention of Deformable DETR's repository, with an encoder's own rules.

    Args:
        encoder: rules of the encoder.
        decoder_layers: decoder layers; the first stage's head comes after theirs.
        outputs: feature maps of the backbone.
        levels: feature levels.
    """
    stage = decoder_layers
    return (
        *TORCHVISION_RESNET,
        *official_neck(outputs, levels),
        *encoder,
        *_OFFICIAL_DECODER,
        *_TWO_STAGE,
        *_QUERIES,
        (r"transformer\.enc_out_class_embed\.", rf"bbox_head.cls_branches.{stage}."),
        *_box_branches(r"transformer\.enc_out_bbox_embed", rf"bbox_head.reg_branches.{stage}"),
        *_head(stage),
    )


def released_names(
    family: str,
    decoder_layers: int,
    convention: str | None = None,
    outputs: int = 3,
    levels: int = 4,
) -> Renaming:
    """The rules of a released model family.

    Args:
        family: one of :data:`FAMILIES`.
        decoder_layers: decoder layers.
        convention: 'detrex' or 'official'; None: that of the family's own release.
        outputs: feature maps of the backbone.
        levels: feature levels.

    Raises:
        ValueError: an unknown family, or a convention that it was not released in.
    """
    if family not in RELEASED_IN:
        raise ValueError(
            f"the names of family {family!r} are not known; accepted: {', '.join(FAMILIES)}"
        )
    known = RELEASED_IN[family]
    convention = convention or known[0]
    if convention not in known:
        raise ValueError(f"{family} has {' or '.join(known)} names, not {convention} ones")
    if convention == "detrex":
        own = FOCUS_ENCODER if family == "focus_dino" else ()
        return (*own, *DETREX, *_head(decoder_layers))
    encoder = SPARSE_ENCODER if family == "sparse_deformable_detr" else LITE_ENCODER
    return official(encoder, decoder_layers, outputs, levels)


# Naming conventions of a family's files, that of its own release first.
RELEASED_IN = {
    "dino": ("detrex", "official"),
    "dn_deformable_detr": ("detrex", "official"),
    "focus_dino": ("detrex",),
    "h_deformable_detr": ("detrex", "official"),
    "lite_dino": ("official",),
    "sparse_deformable_detr": ("official",),
}


def used_name(name: str, decoder_layers: int) -> str:
    """The name under which a released tensor is converted.

    Heads that the encoder or decoder shares with the detector are in a state dict under two
    names, of which one is used.
    """
    stage = decoder_layers
    name = re.sub(r"^transformer\.decoder\.(class|bbox)_embed\.", r"\1_embed.", name)
    name = re.sub(
        r"^(?:transformer\.encoder\.enhance_MCSP|enhance_MCSP_layerlist)\.\d+\.",
        f"class_embed.{stage}.",
        name,
    )
    # in the detector's list, Sparse DETR's encoder heads come after the first stage's
    match = re.match(r"^(class|bbox)_embed\.(\d+)\.", name)
    if match and int(match[2]) > stage:
        own = f"transformer.encoder.{match[1]}_embed.{int(match[2]) - stage - 1}."
        return own + name[match.end() :]
    return name
