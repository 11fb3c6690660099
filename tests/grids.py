"""Small token grids and encoders for the tests."""

from __future__ import annotations

import torch
from torch import nn

from sparse_encoders.contracts import DetectorParts
from sparse_encoders.encoders import (
    DenseEncoder,
    DualAttentionEncoder,
    HybridEncoder,
    LiteDETREncoder,
    NoEncoder,
    SparseDETREncoder,
)
from sparse_encoders.selectors.learned import TokenProjection
from sparse_encoders.tokens import TokenGrid

SHAPES = ((8, 10), (4, 5), (2, 3), (1, 2))
PADDED = ((1.0, 1.0), (0.5, 0.6))
DIMS = 32
CLASSES = 7
LAYER = dict(
    self_attn_cfg=dict(embed_dims=DIMS, num_heads=4),
    ffn_cfg=dict(embed_dims=DIMS, feedforward_channels=48),
)
# settings of small_encoder
ENCODERS = {
    "dense": dict(encoder=DenseEncoder),
    "sparse": dict(encoder=SparseDETREncoder, num_classes=CLASSES),
    "focus": dict(encoder=DualAttentionEncoder),
    "focus, paper": dict(
        values="updated",
        object_score="probability",
        selector=dict(type="FocusTokenSelector", count="image", intervals="overlapping"),
    ),
    "salience": dict(background_embedding="released", selector=dict(type="SalienceTokenSelector")),
    "hybrid": dict(encoder=HybridEncoder, feedforward_channels=48),
    "none": dict(encoder=NoEncoder),
    "lite": dict(encoder=LiteDETREncoder, blocks=1, small_low_level_ffn=True),
    "lite key-aware": dict(encoder=LiteDETREncoder, blocks=1, attention="key_aware"),
    "lite + focus": dict(
        encoder=LiteDETREncoder,
        blocks=1,
        small_low_level_ffn=True,
        selector=dict(type="FocusTokenSelector"),
    ),
}


def make_grid(shapes, valid=None, channels=4):
    """A grid of ``len(valid)`` images; ``valid[i]`` is the valid (h, w) share of image i."""
    batch = 1 if valid is None else len(valid)
    maps = [torch.randn(batch, channels, h, w) for h, w in shapes]
    masks = None
    if valid is not None:
        masks = []
        for h, w in shapes:
            mask = torch.ones(batch, h, w, dtype=torch.bool)
            for image, (rows, columns) in enumerate(valid):
                mask[image, : max(1, round(rows * h)), : max(1, round(columns * w))] = False
            masks.append(mask)
    return TokenGrid.from_maps(maps, maps, masks)


def small_grid(valid=None):
    """Four levels of 32 channels, 108 tokens."""
    return make_grid(SHAPES, valid, channels=DIMS)


def small_encoder(encoder=DualAttentionEncoder, **kwargs):
    """Two layers (where it has layers) of 32 channels whose attention looks around."""
    settings = {"layer_cfg": LAYER, **kwargs}
    if encoder not in (HybridEncoder, NoEncoder):
        settings = {"num_layers": 2, "attention_backend": "torch", **settings}
    built = encoder(**settings).eval()
    for parameter in built.parameters():
        if parameter.dim() > 1:  # sampling offsets and attention weights begin at zero
            nn.init.xavier_uniform_(parameter)
    return built


def lent():
    """What a two-stage detector lends: its projection and a classification head."""
    head = nn.Linear(DIMS, CLASSES)
    return DetectorParts(TokenProjection(DIMS), lambda layer: head)
