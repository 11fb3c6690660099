"""Check of the Lite DETR fixtures: interleaved encoders of any schedule and attention."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from reference.checks import Check, Fixture, close
from reference.parts import encoder_settings, fixture_tokens
from reference.seeded import seeded_state, under
from sparse_encoders.checkpoints.conversion import one_set_per_level
from sparse_encoders.checkpoints.names import released_names, rename
from sparse_encoders.contracts import DetectorParts
from sparse_encoders.encoders import LiteDETREncoder

# What a released plain attention carries without using it.
UNUSED = ("self_attn.query_proj.", "self_attn.key_proj.")


def build_encoder(config: dict[str, Any]) -> LiteDETREncoder:
    """The encoder that a fixture's settings describe."""
    names = ("same_locations_on_every_level", "separate_key_projection")
    return LiteDETREncoder(
        **encoder_settings(config),
        blocks=config["blocks"],
        high_levels=config["high_levels"],
        small_low_level_ffn=config["small_low_level_ffn"],
        attention="key_aware" if config["key_aware"] else "plain",
        key_aware={name: config[name] for name in names} if config["key_aware"] else None,
    ).eval()


def lite_state(released: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """The encoder's state dict; a plain attention gets a set of offsets for each level."""
    state = rename(released, released_names("lite_dino", 6))
    encoder = under(state, "encoder.")
    if config["key_aware"]:
        return encoder
    encoder = {k: v for k, v in encoder.items() if not any(unused in k for unused in UNUSED)}
    levels, points = len(config["spatial_shapes"]), config["num_points"]
    for name, value in encoder.items():
        if ".sampling_offsets." in name:
            encoder[name] = one_set_per_level(value, levels, config["num_heads"], points)
    return encoder


def check_lite_encoders(fixture: Fixture, config: dict[str, Any]) -> list[Check]:
    """Memory of each case's encoder."""
    results = []
    for case, settings in config.items():
        shapes = settings.get("param_shapes") or json.loads(str(fixture["param_shapes"]))
        released = seeded_state(shapes, settings["seed"])
        encoder = build_encoder(settings)
        encoder.load_state_dict(lite_state(released, settings))
        level_embed = next((v for k, v in released.items() if "level_embed" in k), None)
        output = encoder(fixture_tokens(settings, level_embed), DetectorParts())
        index = fixture.get(f"{case}.memory_token_index", fixture["memory_token_index"])
        memory = output.memory[:, torch.from_numpy(index)]
        results.append(close(f"{case}.memory", memory, fixture[f"{case}.memory"]))
    return results
