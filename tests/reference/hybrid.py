"""Check of the hybrid encoder's fixtures: RT-DETR's, on any number of levels."""

from __future__ import annotations

import json
import re
from typing import Any

import torch

from reference.checks import Check, Fixture, checks, close
from reference.focus import fixture_tokens
from reference.seeded import seeded_state
from sparse_encoders.contracts import DetectorParts
from sparse_encoders.encoders import HybridEncoder
from sparse_encoders.encoders.aifi import sine_embedding

_LAYER = (
    ("self_attn", "self_attn.attn"),
    ("linear1", "ffn.layers.0.0"),
    ("linear2", "ffn.layers.1"),
    ("norm1", "norms.0"),
    ("norm2", "norms.1"),
)
_STEPS = (
    ("lateral_convs", "lateral"),
    ("fpn_blocks", "top_down"),
    ("downsample_convs", "down"),
    ("pan_blocks", "bottom_up"),
)
# patterns of the release's names, all of which are replaced
_NAMES = (
    *((rf"^encoder\.0\.layers\.0\.{old}\b", f"attention.layer.{new}") for old, new in _LAYER),
    *((rf"^{old}\b", f"fusion.{new}") for old, new in _STEPS),
    (r"\.bottlenecks\.(\d+)\.conv1\.", r".blocks.\1.neighbours."),
    (r"\.bottlenecks\.(\d+)\.conv2\.", r".blocks.\1.cell."),
    (r"\.conv1\.", ".deep."),
    (r"\.conv2\.", ".shallow."),
    (r"\.conv3\.", ".out."),
    (r"\.norm\.", ".bn."),
)


@checks("hybrid_encoder")
def check_hybrid_encoder(fixture: Fixture, config: dict[str, Any]) -> list[Check]:
    """Position embedding of the coarsest level, and the memory."""
    encoder = _build(fixture, config)
    (h, w), dims = config["spatial_shapes"][-1], encoder.embed_dims
    embedding = sine_embedding(h, w, dims, "released")[0]
    # the release knows no padding
    settings = config | dict(embed_dim=dims, valid_fraction_hw=[[1.0, 1.0]] * config["batch"])
    output = encoder(fixture_tokens(settings, None), DetectorParts())
    memory = output.memory[:, torch.from_numpy(fixture["memory_token_index"])]
    return [
        close("position_of_coarsest", embedding, fixture["position_of_coarsest"]),
        close("memory", memory, fixture["memory"]),
    ]


def _build(fixture: Fixture, config: dict[str, Any]) -> HybridEncoder:
    """The encoder with its seeded weights."""
    shapes = json.loads(str(fixture["param_shapes"]))
    aliases = json.loads(str(fixture["aliases"])) if "aliases" in fixture else {}
    released = seeded_state(shapes, config["seed"], aliases)
    state = {_our_name(name): value for name, value in released.items()}
    encoder = HybridEncoder(
        num_levels=len(config["spatial_shapes"]),
        layer_cfg=dict(
            self_attn_cfg=dict(
                embed_dims=config.get("embed_dim", 256), num_heads=config.get("num_heads", 8)
            )
        ),
        feedforward_channels=config["ffn_dim"],
        expansion=config["expansion"],
        depth_mult=config["depth_mult"],
        position="released",
    ).eval()
    encoder.load_state_dict(state)
    return encoder


def _our_name(released: str) -> str:
    """A parameter's name here."""
    for pattern, replacement in _NAMES:
        released = re.sub(pattern, replacement, released)
    return released
