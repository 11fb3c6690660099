"""Checks of the Salience DETR fixtures: its encoder with its selector, and its targets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from reference.checks import Check, Fixture, close
from reference.parts import (
    encoder_settings,
    fixture_tokens,
    label_inputs,
    lent_parts,
    released_state,
    same_memory,
    same_selection,
)
from reference.seeded import under
from sparse_encoders.checkpoints.names import Renaming, rename
from sparse_encoders.encoders import DualAttentionEncoder, EncoderOutput
from sparse_encoders.supervision.salience import SalienceLabels, salience_loss

LABEL_TOLERANCE = 1e-5  # relative, of targets and loss
_LAYER = (
    ("pre_attention", "object_attention.attention.attn"),
    ("pre_norm", "object_attention.norm"),
    ("self_attn", "self_attn"),
    ("norm1", "norms.0"),
    ("linear1", "ffn.layers.0.0"),
    ("linear2", "ffn.layers.1"),
    ("norm2", "norms.1"),
)
# the parts of Salience DETR's release that an encoder and its selector need
_NAMES: Renaming = (
    (r"level_embeds$", r"level_embed"),
    (r"alpha$", r"encoder.selector.alpha"),
    (r"enc_output_norm\.", r"memory_trans_norm."),
    (r"enc_output\.", r"memory_trans_fc."),
    (r"enc_mask_predictor\.layer1\.", r"encoder.selector.score_mlp.embed."),
    (r"enc_mask_predictor\.layer2\.", r"encoder.selector.score_mlp.head."),
    (r"encoder\.enhance_mcsp\.", r"head."),
    (r"encoder\.background_embedding\.row_embed\.weight", r"encoder.background.rows"),
    (r"encoder\.background_embedding\.col_embed\.weight", r"encoder.background.columns"),
    *((rf"encoder\.layers\.(\d+)\.{old}\.", rf"encoder.layers.\1.{new}.") for old, new in _LAYER),
)


def check_salience_encoder(fixture: Fixture, config: dict[str, Any]) -> list[Check]:
    """Scores, kept tokens and memory of the released encoder."""
    state = rename(released_state(fixture, config), _NAMES)
    encoder = DualAttentionEncoder(
        **encoder_settings(config),
        num_object_tokens=config["topk_self_attention"],
        background_embedding="released",
        background_cells=config["background_embeddings"],
        selector=dict(
            type="SalienceTokenSelector",
            level_ratios=config["level_filter_ratio"],
            layer_ratios=config["layer_filter_ratio"],
            # targets are not compared here, and any number of levels has these
            intervals=None,
            test_count="batch",
        ),
    ).eval()
    encoder.load_state_dict(under(state, "encoder."))
    tokens = fixture_tokens(config, state["level_embed"])
    # as a detector's grid, it knows how many tokens any image has on each level
    levels = [tokens.num_valid(range(level, level + 1)).max() for level in tokens.all_levels]
    tokens = replace(tokens, level_max_valid=tuple(map(int, levels)))
    output = encoder(tokens, lent_parts(state, under(state, "head.")))
    return [
        *same_selection(output, fixture),
        same_memory(output, fixture, _refined_padding(output)),
    ]


def _refined_padding(output: EncoderOutput) -> Tensor | None:
    """(B, N) padding that the released code refined.

    It ranks a level's padding at the level's lowest score, so that of a smaller image some
    may come before tokens of another level, and refines it. Nothing reads it afterwards.
    """
    padding, layer = output.tokens.padding_mask, output.layers[0]
    if padding is None or output.selection is None:
        return None
    # what it writes back, the first ones of the ranking of which a later layer takes fewer
    counts = output.selection.groups[0].num_foreground
    written = torch.arange(layer.size) < counts.unsqueeze(1)
    return padding & torch.zeros_like(padding).scatter(1, layer.indices, written & layer.taken)


def check_salience_labels(fixture: Fixture, config: dict[str, Any]) -> list[Check]:
    """Soft targets of the tokens, and the loss of the batch."""
    results = []
    for case, settings in config.items():
        size = settings["height"], settings["width"]
        tokens, boxes, logits = label_inputs(fixture, case, settings, size)
        ranges = settings.get("ranges")
        intervals = None if ranges is None else [(low, high) for low, high in ranges]
        labels = SalienceLabels(len(settings["spatial_shapes"]), intervals)(tokens, boxes)
        loss = salience_loss(logits, labels)
        results += [
            close(f"{case}.label", labels, fixture[f"{case}.label"], LABEL_TOLERANCE),
            close(f"{case}.loss", loss, fixture[f"{case}.loss"], LABEL_TOLERANCE),
        ]
    return results
