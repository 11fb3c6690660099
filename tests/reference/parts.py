"""What the checks of encoders and labels share: weights, layers, token grids and comparisons."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from reference.checks import Check, Fixture, close, equal, same_sets
from reference.seeded import seeded_input, seeded_state, under, uniform
from sparse_encoders.contracts import DetectorParts
from sparse_encoders.encoders import EncoderOutput
from sparse_encoders.selectors.learned import TokenProjection
from sparse_encoders.tokens import LevelShapes, TokenGrid


def released_state(fixture: Fixture, config: dict[str, Any]) -> dict[str, Tensor]:
    """The released state dict; ``aliases`` of the fixture names parameters that share a storage."""
    aliases = json.loads(str(fixture["aliases"])) if "aliases" in fixture else {}
    return seeded_state(json.loads(str(fixture["param_shapes"])), config["seed"], aliases)


def encoder_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Arguments that all encoders have in common."""
    dims = config["embed_dim"]
    attention = dict(
        embed_dims=dims, num_heads=config["num_heads"], num_points=config["num_points"]
    )
    ffn = dict(embed_dims=dims, feedforward_channels=config["ffn_dim"])
    return dict(
        num_layers=config["num_layers"],
        num_levels=len(config["spatial_shapes"]),
        layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=ffn),
    )


def lent_parts(state: dict[str, Tensor], head: Mapping[str, Tensor] | None = None) -> DetectorParts:
    """What a detector lends its encoder: the proposals' projection, and a linear class head."""
    projection = TokenProjection(len(state["memory_trans_norm.bias"]))
    projection.fc.load_state_dict(under(state, "memory_trans_fc."))
    projection.norm.load_state_dict(under(state, "memory_trans_norm."))
    if head is None:
        return DetectorParts(projection)
    classes, dims = head["weight"].shape
    branch = nn.Linear(dims, classes)
    branch.load_state_dict(head)
    return DetectorParts(projection, lambda layer: branch)


def fixture_tokens(config: dict[str, Any], level_embed: Tensor | None) -> TokenGrid:
    """The token grid of an encoder's fixture, with (L, C) ``level_embed`` added to the positions.

    As a detector's does, it says how many tokens the batch's largest image has: the
    released codes size by that what they keep.
    """
    shapes: LevelShapes = tuple((h, w) for h, w in config["spatial_shapes"])
    fractions, seed = config["valid_fraction_hw"], config["seed"]
    features, pos_embed, masks = [], [], []
    for level, (h, w) in enumerate(shapes):
        shape = (len(fractions), config["embed_dim"], h, w)
        features.append(seeded_input(f"feat{level}", shape, seed))
        position = seeded_input(f"pos{level}", shape, seed)
        if level_embed is not None:
            position = position + level_embed[level][:, None, None]
        pos_embed.append(position)
        mask = torch.ones(len(fractions), h, w, dtype=torch.bool)
        for image, (fraction_h, fraction_w) in enumerate(fractions):
            mask[image, : ceil(fraction_h * h), : ceil(fraction_w * w)] = False
        masks.append(mask)
    tokens = TokenGrid.from_maps(features, pos_embed, masks)
    return replace(tokens, max_valid=int(tokens.num_valid().max()))


def same_memory(output: EncoderOutput, fixture: Fixture, skip: Tensor | None = None) -> Check:
    """Memory of the fixture's tokens, but for those that (B, N) ``skip`` marks."""
    index = torch.from_numpy(fixture["memory_token_index"])
    memory, expected = output.memory[:, index], torch.from_numpy(fixture["memory"])
    if skip is not None and memory.shape == expected.shape:
        memory = torch.where(skip[:, index].unsqueeze(-1), expected, memory)
    return close("memory", memory, fixture["memory"])


def same_selection(output: EncoderOutput, fixture: Fixture) -> list[Check]:
    """Foreground scores, their counts, and the tokens of each layer."""
    chosen = output.selection
    assert chosen is not None
    results = [
        close("foreground_score", chosen.scores, fixture["foreground_score"]),
        equal("num_foreground", chosen.groups[0].num_foreground, fixture["num_foreground"]),
    ]
    for index, layer in enumerate(output.layers):
        name = f"foreground_index_layer{index}"
        results.append(same_sets(name, layer.indices, fixture[name], chosen.scores))
    return results


def label_inputs(
    fixture: Fixture, case: str, settings: dict[str, Any], size: tuple[int, int] | None = None
) -> tuple[TokenGrid, list[Tensor], Tensor]:
    """A grid without features, the boxes of each image, and (B, N) logits of a case of labels."""
    batch, count = fixture[f"{case}.label"].shape
    boxes = [torch.from_numpy(fixture[f"{case}.boxes_image{image}"]) for image in range(batch)]
    shapes = tuple((h, w) for h, w in settings["spatial_shapes"])
    blank, ratios = torch.zeros(batch, count, 1), torch.ones(batch, len(shapes), 2)
    tokens = TokenGrid(blank, blank, None, shapes, ratios, size)
    raw = 8.0 * uniform("logit", (batch, count), settings["seed"]) - 4.0
    return tokens, boxes, torch.from_numpy(raw).float()
