"""Released names of whole detectors to this package's.

Two conventions cover the releases: detrex's (detectron2's ResNet, attentions and
FFNs in lists) and that of Deformable DETR's repository (torchvision's ResNet,
``self_attn``, ``linear1``, ...), which DINO, Lite DETR and Sparse DETR follow.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sparse_encoders.checkpoints.names import (
    FOCUS_ENCODER,
    LITE_ENCODER,
    SPARSE_ENCODER,
    Renaming,
    rename,
)


def _box_branches(old: str, new: str) -> Renaming:
    """The linear layers of an MLP, which stand at 0, 2 and 4 beside the activations here."""
    return tuple((rf"{old}\.layers\.{i}\.", rf"{new}.{2 * i}.") for i in range(3))


def _head(decoder_layers: int) -> Renaming:
    """Branches of the decoder layers and of the first stage; others are shared ones."""
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
    (r"query_embedding\.", r"query_embedding."),
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

# detectron2's stages are called res2 to res5, MMDetection's layer1 to layer4
_DETECTRON_BACKBONE: Renaming = (
    (r"backbone\.stem\.conv1\.norm\.", r"backbone.bn1."),
    (r"backbone\.stem\.conv1\.", r"backbone.conv1."),
    *(
        (rf"backbone\.res{stage}\.(\d+)\.{old}\.", rf"backbone.layer{stage - 1}.\1.{new}.")
        for stage in range(2, 6)
        for old, new in (
            ("shortcut.norm", "downsample.1"),
            ("shortcut", "downsample.0"),
            (r"conv(\d)\.norm", r"bn\2"),
            (r"conv(\d)", r"conv\2"),
        )
    ),
    (r"neck\.(convs|extra_convs)\.(\d+)\.norm\.", r"neck.\1.\2.gn."),
    (r"neck\.", r"neck."),
)
DETREX: Renaming = (
    *_DETECTRON_BACKBONE,
    (r"transformer\.level_embeds", r"level_embed"),
    (r"transformer\.encoder\.layers\.(\d+)\.attentions\.0\.", r"encoder.layers.\1.self_attn."),
    (r"transformer\.(encoder|decoder)\.layers\.(\d+)\.ffns\.0\.", r"\1.layers.\2.ffn."),
    (r"transformer\.(encoder|decoder)\.layers\.(\d+)\.norms\.", r"\1.layers.\2.norms."),
    (r"transformer\.decoder\.layers\.(\d+)\.attentions\.0\.", r"decoder.layers.\1.self_attn."),
    (r"transformer\.decoder\.layers\.(\d+)\.attentions\.1\.", r"decoder.layers.\1.cross_attn."),
    *_TWO_STAGE,
    *_QUERIES,
)

_TORCHVISION_BACKBONE: Renaming = (
    (r"backbone\.0\.body\.", r"backbone."),
    *((rf"input_proj\.{i}\.0\.", rf"neck.convs.{i}.conv.") for i in range(3)),
    *((rf"input_proj\.{i}\.1\.", rf"neck.convs.{i}.gn.") for i in range(3)),
    (r"input_proj\.3\.0\.", r"neck.extra_convs.0.conv."),
    (r"input_proj\.3\.1\.", r"neck.extra_convs.0.gn."),
)
# cross-attention was written first there: its norm is norm1, self-attention's norm2
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


def official(encoder: Renaming, decoder_layers: int) -> Renaming:
    """The convention of Deformable DETR's repository around an encoder's own names.

    Args:
        encoder: rules of the encoder.
        decoder_layers: decoder layers; the first stage's head stands after theirs.
    """
    stage = decoder_layers
    return (
        *_TORCHVISION_BACKBONE,
        *encoder,
        *_OFFICIAL_DECODER,
        *_TWO_STAGE,
        *_QUERIES,
        (r"transformer\.enc_out_class_embed\.", rf"bbox_head.cls_branches.{stage}."),
        *_box_branches(r"transformer\.enc_out_bbox_embed", rf"bbox_head.reg_branches.{stage}"),
        *_head(stage),
    )


def released_names(family: str, decoder_layers: int) -> Renaming:
    """The rules of a released model family.

    Raises:
        ValueError: an unknown family.
    """
    if family in ("dino", "dn_deformable_detr", "h_deformable_detr"):
        return (*DETREX, *_head(decoder_layers))
    if family == "focus_dino":
        return (*FOCUS_ENCODER, *DETREX, *_head(decoder_layers))
    if family == "lite_dino":
        return official(LITE_ENCODER, decoder_layers)
    if family == "sparse_deformable_detr":
        return official(SPARSE_ENCODER, decoder_layers)
    raise ValueError(f"no names are known of family {family!r}; accepted: {', '.join(FAMILIES)}")


FAMILIES = (
    "dino",
    "dn_deformable_detr",
    "focus_dino",
    "h_deformable_detr",
    "lite_dino",
    "sparse_deformable_detr",
)


def convert(
    state: Mapping[str, Tensor], family: str, decoder_layers: int, num_classes: int
) -> tuple[dict[str, Tensor], list[str]]:
    """A released state dict in this package's names.

    Label embeddings keep the rows of real classes: the released ones have a last
    one or two that nothing reads.

    Returns:
        The state dict, and the released names that were left out: shared
        parameters under a second name, and what the model never uses.
    """
    new, left_out = rename(state, released_names(family, decoder_layers))
    labels = "dn_query_generator.label_embedding.weight"
    if labels in new:
        new[labels] = new[labels][:num_classes]
    return new, left_out
