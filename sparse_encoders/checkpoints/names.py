"""Rules from the parameter names of released models to this package's.

Two conventions cover the releases: detrex's (detectron2's ResNet, attentions and FFNs in lists)
and that of Deformable DETR's repository (torchvision's ResNet, ``self_attn``, ``linear1``, ...),
which DINO, Lite DETR and Sparse DETR follow. Their names exclude each other, so one list of rules
covers both; only Focus-DETR's encoder has names that mean something else in the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

Renaming = Sequence[tuple[str, str]]


def _modules(old: str, new: str, parts: Mapping[str, str]) -> Renaming:
    """Rules for modules by their released names: ``old`` and ``new`` stand before each."""
    return tuple((rf"{old}{theirs}\.", rf"{new}{ours}.") for theirs, ours in parts.items())


def _layers(stack: str, parts: Mapping[str, str]) -> Renaming:
    """Rules for the modules of every layer of the 'encoder' or 'decoder'."""
    # encoders that were released alone have no "transformer."
    return _modules(rf"(?:transformer\.)?{stack}\.layers\.(\d+)\.", rf"{stack}.layers.\1.", parts)


def _box_branches(old: str, new: str) -> Renaming:
    """The linear layers of an MLP, which have the indices 0, 2 and 4 here."""
    return _modules(rf"{old}\.layers\.", rf"{new}.", {"0": "0", "1": "2", "2": "4"})


_FOCUS_ENCODER = _layers(
    "encoder",
    {
        r"attentions\.0": "object_attention.attention",
        r"attentions\.1": "self_attn",
        "norm2": "object_attention.norm",
    },
)
_ENCODER = _layers(
    "encoder",
    {
        r"attentions\.0": "self_attn",
        r"ffns\.0": "ffn",
        "norms": "norms",
        "self_attn": "self_attn",
        "norm1": "norms.0",
        "linear1": "ffn.layers.0.0",
        "linear2": "ffn.layers.1",
        "norm2": "norms.1",
        # of Lite DETR's low levels
        "linear12": "low_level_ffn.layers.0.0",
        "linear22": "low_level_ffn.layers.1",
        "norm22": "low_level_norm",
    },
)
_DECODER = _layers(
    "decoder",
    {
        r"attentions\.0": "self_attn",
        r"attentions\.1": "cross_attn",
        r"ffns\.0": "ffn",
        "norms": "norms",
        "self_attn": "self_attn.attn",
        "cross_attn": "cross_attn",
        # norm1 belongs to cross-attention in these names, norm2 to self-attention
        "norm1": "norms.1",
        "norm2": "norms.0",
        "norm3": "norms.2",
        "linear1": "ffn.layers.0.0",
        "linear2": "ffn.layers.1",
    },
)
_TRANSFORMER: Renaming = (
    (r"transformer\.alpha", r"encoder.selector.alpha"),
    (r"(?:transformer\.)?level_embeds?$", r"level_embed"),
    *_modules(
        r"transformer\.",
        "",
        {
            "enc_output": "memory_trans_fc",
            "enc_output_norm": "memory_trans_norm",
            "pos_trans": "pos_trans_fc",
            "pos_trans_norm": "pos_trans_norm",
            r"enc_mask_predictor\.layer1": "encoder.selector.score_mlp.embed",
            r"enc_mask_predictor\.layer2": "encoder.selector.score_mlp.head",
            r"encoder\.class_embed\.(\d+)": r"encoder.auxiliary.cls_branches.\1",
            r"decoder\.(ref_point_head|query_scale|norm)": r"decoder.\1",
        },
    ),
    *_box_branches(
        r"transformer\.encoder\.bbox_embed\.(\d+)", r"encoder.auxiliary.reg_branches.\1"
    ),
    *_modules(
        "",
        "",
        {
            r"(?:transformer\.)?tgt_embed": "query_embedding",
            "query_embed(?:ding)?": "query_embedding",
            "refpoint_embed": "anchor_embedding",
            r"(?:label_enc|denoising_generator\.label_encoder|label_encoder)": (
                "dn_query_generator.label_embedding"
            ),
        },
    ),
)
_RESNET: Renaming = (
    (r"backbone\.0\.body\.", r"backbone."),
    *_modules(r"backbone\.stem\.", "backbone.", {r"conv1\.norm": "bn1", "conv1": "conv1"}),
    # detectron2's stages are called res2 to res5, MMDetection's layer1 to layer4
    *(
        rule
        for stage in range(2, 6)
        for rule in _modules(
            rf"backbone\.res{stage}\.(\d+)\.",
            rf"backbone.layer{stage - 1}.\1.",
            {
                r"shortcut\.norm": "downsample.1",
                "shortcut": "downsample.0",
                r"conv(\d)\.norm": r"bn\2",
                r"conv(\d)": r"conv\2",
            },
        )
    ),
)


def released_names(family: str, decoder_layers: int, outputs: int = 3, levels: int = 4) -> Renaming:
    """The rules of a released model family.

    Args:
        family: one of :data:`FAMILIES`.
        decoder_layers: decoder layers; the first stage's head comes after theirs.
        outputs: feature maps of the backbone.
        levels: feature levels.
    """
    stage = decoder_layers
    heads = "|".join(str(i) for i in range(stage + 1))
    neck = [(r"neck\.(convs|extra_convs)\.(\d+)\.norm\.", r"neck.\1.\2.gn."), (r"neck\.", "neck.")]
    # Deformable DETR's repository: a projection of each backbone output, then strided ones
    for index in range(levels):
        module = f"convs.{index}" if index < outputs else f"extra_convs.{index - outputs}"
        neck += _modules(rf"input_proj\.{index}\.", f"neck.{module}.", {"0": "conv", "1": "gn"})
    return (
        *(_FOCUS_ENCODER if family == "focus_dino" else ()),
        *_ENCODER,
        *_DECODER,
        *_TRANSFORMER,
        *_RESNET,
        *neck,
        (r"transformer\.enc_out_class_embed\.", rf"bbox_head.cls_branches.{stage}."),
        *_box_branches(r"transformer\.enc_out_bbox_embed", rf"bbox_head.reg_branches.{stage}"),
        (rf"class_embed\.({heads})\.", r"bbox_head.cls_branches.\1."),
        *_box_branches(rf"bbox_embed\.({heads})", r"bbox_head.reg_branches.\1"),
    )


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


def rename(state: Mapping[str, Tensor], renaming: Renaming) -> dict[str, Tensor]:
    """The tensors whose names a rule matches, by the name that the first such rule gives."""
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in renaming:
            if re.match(pattern, name):
                renamed[re.sub("^" + pattern, replacement, name)] = value
                break
    return renamed
