"""Checks of the Focus-DETR fixtures: its encoder with its selector, and its labels."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from reference.checks import Check, Fixture, close, equal
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
from sparse_encoders.checkpoints.names import released_names, rename
from sparse_encoders.contracts import DetectorParts
from sparse_encoders.encoders import DualAttentionEncoder
from sparse_encoders.selectors.keep import KeepSchedule
from sparse_encoders.supervision.foreground import ForegroundLabels, foreground_focal_loss


def build_focus_encoder(
    fixture: Fixture, config: dict[str, Any]
) -> tuple[DualAttentionEncoder, DetectorParts, Tensor]:
    """The encoder of a fixture with its seeded weights, what a detector lends it, and (L, C)."""
    released = released_state(fixture, config)
    state = rename(released, released_names("focus_dino", 6))
    encoder = DualAttentionEncoder(
        **encoder_settings(config),
        num_object_tokens=config["topk_self_attention"],
        selector=dict(test_count="batch"),
    ).eval()
    encoder.load_state_dict(under(state, "encoder."))
    assert encoder.selector is not None
    encoder.selector.schedule = KeepSchedule(config["keep_ratio"], tuple(config["cascade"]))
    return encoder, lent_parts(state, under(released, "class_embed_enc.")), state["level_embed"]


def check_focus_encoder(fixture: Fixture, config: dict[str, Any]) -> list[Check]:
    """Foreground scores, kept tokens and memory of the released encoder."""
    encoder, detector, level_embed = build_focus_encoder(fixture, config)
    output = encoder(fixture_tokens(config, level_embed), detector)
    return [*same_selection(output, fixture), same_memory(output, fixture)]


def check_foreground_labels(fixture: Fixture, config: dict[str, Any]) -> list[Check]:
    """Token labels of two interval sets, and the focal loss of each image."""
    results = []
    for case, settings in config.items():
        tokens, boxes, logits = label_inputs(fixture, case, settings)
        intervals = [(low, high) for low, high in settings["ranges"]]
        rule = ForegroundLabels(len(settings["spatial_shapes"]), intervals, settings["strides"])
        labels = rule(tokens, boxes)
        results.append(equal(f"{case}.label", labels, fixture[f"{case}.label"]))
        loss = foreground_focal_loss(logits, labels)
        results.append(close(f"{case}.loss_per_image", loss, fixture[f"{case}.loss_per_image"]))
    return results
