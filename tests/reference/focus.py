"""Checks of the Focus-DETR fixtures: its encoder with its selector, and its labels."""

from __future__ import annotations

import json
from dataclasses import replace
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from reference.checks import Check, Fixture, checks, close, equal, same_sets
from reference.seeded import seeded_input, seeded_state, uniform
from sparse_encoders.checkpoints.names import FOCUS_ENCODER, rename, under
from sparse_encoders.contracts import DetectorParts
from sparse_encoders.encoders import DualAttentionEncoder
from sparse_encoders.selectors.keep import KeepSchedule
from sparse_encoders.selectors.projection import TokenProjection
from sparse_encoders.supervision.foreground import ForegroundLabels, foreground_focal_loss
from sparse_encoders.tokens import LevelShapes, TokenGrid


def fixture_tokens(config: dict[str, Any], level_embed: Tensor | None) -> TokenGrid:
    """The token grid that a fixture of an encoder was made with.

    As a detector does, it says how many tokens the batch's largest image has: the
    released codes size by that what they keep.

    Args:
        config: with ``spatial_shapes``, ``valid_fraction_hw``, ``embed_dim``, ``seed``.
        level_embed: (L, C), where the model adds its own.
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


def build_focus_encoder(
    config: dict[str, Any], shapes: dict[str, list[int]]
) -> tuple[DualAttentionEncoder, DetectorParts, Tensor]:
    """The encoder of a fixture with its seeded weights, what a detector lends it, and (L, C).

    Args:
        config: the fixture's settings.
        shapes: released parameter name to shape.
    """
    released = seeded_state(shapes, config["seed"])
    state, _ = rename(released, FOCUS_ENCODER)
    levels, dims = len(config["spatial_shapes"]), config["embed_dim"]
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
        selector=dict(test_count="batch"),
    ).eval()
    encoder.load_state_dict(under(state, "encoder."))
    assert encoder.selector is not None
    encoder.selector.schedule = KeepSchedule(config["keep_ratio"], tuple(config["cascade"]))

    projection = TokenProjection(dims)
    projection.fc.load_state_dict(under(state, "memory_trans_fc."))
    projection.norm.load_state_dict(under(state, "memory_trans_norm."))
    head = nn.Linear(dims, config["num_classes"])
    head.load_state_dict(under(released, "class_embed_enc."))

    return encoder, DetectorParts(projection, lambda layer: head), state["level_embed"]


@checks("focus_encoder")
def check_focus_encoder(fixture: Fixture, config: dict[str, Any]) -> list[Check]:
    """Foreground scores, kept tokens and memory of the released encoder."""
    shapes = json.loads(str(fixture["param_shapes"]))
    encoder, detector, level_embed = build_focus_encoder(config, shapes)
    output = encoder(fixture_tokens(config, level_embed), detector)
    chosen = output.selection
    assert chosen is not None
    results = [
        close("foreground_score", chosen.scores, fixture["foreground_score"]),
        equal("num_foreground", chosen.groups[0].num_foreground, fixture["num_foreground"]),
    ]
    for index, layer in enumerate(output.layers):
        name = f"foreground_index_layer{index}"
        results.append(same_sets(name, layer.indices, fixture[name], chosen.scores))
    memory = output.memory[:, torch.from_numpy(fixture["memory_token_index"])]
    results.append(close("memory", memory, fixture["memory"]))
    return results


@checks("foreground_labels")
def check_foreground_labels(fixture: Fixture, config: dict[str, Any]) -> list[Check]:
    """Token labels of two interval sets, and the focal loss of each image."""
    results = []
    for case, settings in config.items():
        shapes = tuple((h, w) for h, w in settings["spatial_shapes"])
        labels = fixture[f"{case}.label"]
        boxes = [
            torch.from_numpy(fixture[f"{case}.boxes_image{i}"]) for i in range(labels.shape[0])
        ]
        blank = torch.zeros(labels.shape[0], labels.shape[1], 1)
        tokens = TokenGrid(blank, blank, None, shapes, torch.ones(labels.shape[0], len(shapes), 2))
        intervals = [(low, high) for low, high in settings["ranges"]]
        ours = ForegroundLabels(len(shapes), intervals, settings["strides"])(tokens, boxes)
        results.append(equal(f"{case}.label", ours, labels))
        raw = uniform("logit", (*labels.shape, 1), settings["seed"])
        logits = torch.from_numpy(8.0 * raw - 4.0).float().squeeze(-1)
        loss = foreground_focal_loss(logits, ours)
        results.append(close(f"{case}.loss_per_image", loss, fixture[f"{case}.loss_per_image"]))
    return results
