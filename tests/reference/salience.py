"""Checks of the Salience DETR fixtures: its encoder with its selector, and its targets."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from reference.checks import Check, Fixture, checks, close, equal, same_sets
from reference.focus import fixture_tokens
from reference.seeded import seeded_state, uniform
from sparse_encoders.checkpoints.names import Renaming, rename, under
from sparse_encoders.contracts import DetectorParts
from sparse_encoders.encoders import DualAttentionEncoder, EncoderOutput
from sparse_encoders.selectors.projection import TokenProjection
from sparse_encoders.supervision.salience import SalienceLabels, salience_loss
from sparse_encoders.tokens import TokenGrid

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


@checks("salience_encoder")
def check_salience_encoder(fixture: Fixture, config: dict[str, Any]) -> list[Check]:
    """Scores, kept tokens and memory of the released encoder."""
    encoder, detector, level_embed = _build(fixture, config)
    output = encoder(_tokens(config, level_embed), detector)
    chosen = output.selection
    assert chosen is not None
    results = [
        close("foreground_score", chosen.scores, fixture["foreground_score"]),
        equal("num_foreground", chosen.groups[0].num_foreground, fixture["num_foreground"]),
    ]
    for index, layer in enumerate(output.layers):
        name = f"foreground_index_layer{index}"
        results.append(same_sets(name, layer.indices, fixture[name], chosen.scores))
    return [*results, _same_memory(output, fixture)]


def _build(
    fixture: Fixture, config: dict[str, Any]
) -> tuple[DualAttentionEncoder, DetectorParts, Tensor]:
    """The encoder with its seeded weights, what a detector lends it, and (L, C)."""
    shapes = json.loads(str(fixture["param_shapes"]))
    aliases = json.loads(str(fixture["aliases"])) if "aliases" in fixture else {}
    state, _ = rename(seeded_state(shapes, config["seed"], aliases), _NAMES)
    levels, dims = len(config["spatial_shapes"]), config["embed_dim"]
    cells = config["background_embeddings"]
    encoder = DualAttentionEncoder(
        num_layers=config["num_layers"],
        num_levels=levels,
        layer_cfg=dict(
            self_attn_cfg=dict(
                embed_dims=dims,
                num_heads=config["num_heads"],
                num_points=config["num_points"],
            ),
            ffn_cfg=dict(embed_dims=dims, feedforward_channels=config["ffn_dim"]),
        ),
        num_object_tokens=config["topk_self_attention"],
        background_embedding="released",
        background_cells=cells,
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
    projection = TokenProjection(dims)
    projection.fc.load_state_dict(under(state, "memory_trans_fc."))
    projection.norm.load_state_dict(under(state, "memory_trans_norm."))
    head = nn.Linear(dims, config["num_classes"])
    head.load_state_dict(under(state, "head."))
    return encoder, DetectorParts(projection, lambda layer: head), state["level_embed"]


def _tokens(config: dict[str, Any], level_embed: Tensor) -> TokenGrid:
    """The grid, which knows as a detector's does how many tokens any image has on each level."""
    tokens = fixture_tokens(config, level_embed)
    levels = [range(level, level + 1) for level in tokens.all_levels]
    return replace(
        tokens, level_max_valid=tuple(int(tokens.num_valid(one).max()) for one in levels)
    )


def _same_memory(output: EncoderOutput, fixture: Fixture) -> Check:
    """Memory, but for padding that the released code refined.

    It ranks a level's padding at the level's lowest score, so that of a smaller image some
    may come before tokens of another level, and refines it. Nothing reads it afterwards.
    """
    index = torch.from_numpy(fixture["memory_token_index"])
    memory, expected = output.memory[:, index], torch.from_numpy(fixture["memory"])
    padding = output.tokens.padding_mask
    if padding is not None and memory.shape == expected.shape:
        layer, counts = output.layers[0], output.selection.groups[0].num_foreground  # type: ignore[union-attr]
        # what it writes back, the first ones of the ranking of which a later layer takes fewer
        written = torch.arange(layer.size) < counts.unsqueeze(1)
        refined = torch.zeros_like(padding).scatter(1, layer.indices, written & layer.taken)
        memory = torch.where((padding & refined)[:, index].unsqueeze(-1), expected, memory)
    return close("memory", memory, fixture["memory"])


@checks("salience_labels")
def check_salience_labels(fixture: Fixture, config: dict[str, Any]) -> list[Check]:
    """Soft targets of the tokens, and the loss of the batch."""
    results = []
    for case, settings in config.items():
        shapes = tuple((h, w) for h, w in settings["spatial_shapes"])
        expected = fixture[f"{case}.label"]
        batch, count = expected.shape
        boxes = [torch.from_numpy(fixture[f"{case}.boxes_image{i}"]) for i in range(batch)]
        blank, ratios = torch.zeros(batch, count, 1), torch.ones(batch, len(shapes), 2)
        size = settings["height"], settings["width"]
        tokens = TokenGrid(blank, blank, None, shapes, ratios, size)
        ranges = settings.get("ranges")
        intervals = None if ranges is None else [(low, high) for low, high in ranges]
        ours = SalienceLabels(len(shapes), intervals)(tokens, boxes)
        raw = uniform("logit", (batch, count), settings["seed"])
        loss = salience_loss(torch.from_numpy(8.0 * raw - 4.0).float(), ours)
        results += [
            close(f"{case}.label", ours, expected, LABEL_TOLERANCE),
            close(f"{case}.loss", loss, fixture[f"{case}.loss"], LABEL_TOLERANCE),
        ]
    return results
