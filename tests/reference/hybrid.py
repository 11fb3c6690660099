"""Check of the hybrid encoder's fixtures: RT-DETR's, on any number of levels."""

from __future__ import annotations

import re
from typing import Any

from reference.checks import Check, Fixture, close
from reference.parts import fixture_tokens, released_state, same_memory
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


def check_hybrid_encoder(fixture: Fixture, config: dict[str, Any]) -> list[Check]:
    """Position embedding of the coarsest level, and the memory."""
    state = {}
    for name, value in released_state(fixture, config).items():
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        state[name] = value
    dims = config.get("embed_dim", 256)
    encoder = HybridEncoder(
        num_levels=len(config["spatial_shapes"]),
        layer_cfg=dict(self_attn_cfg=dict(embed_dims=dims, num_heads=config.get("num_heads", 8))),
        feedforward_channels=config["ffn_dim"],
        expansion=config["expansion"],
        depth_mult=config["depth_mult"],
        position="released",
    ).eval()
    encoder.load_state_dict(state)
    h, w = config["spatial_shapes"][-1]
    embedding = sine_embedding(h, w, dims, "released")[0]
    # the release knows no padding
    settings = config | dict(embed_dim=dims, valid_fraction_hw=[[1.0, 1.0]] * config["batch"])
    output = encoder(fixture_tokens(settings, None), DetectorParts())
    return [
        close("position_of_coarsest", embedding, fixture["position_of_coarsest"]),
        same_memory(output, fixture),
    ]
