"""The embedding of the background."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from grids import DIMS, SHAPES, make_grid, small_encoder, small_grid
from sparse_encoders.contracts import DetectorParts
from sparse_encoders.encoders.background import BackgroundEmbedding
from sparse_encoders.selectors import LayerSelection
from sparse_encoders.selectors.projection import TokenProjection
from tiny import build
from tiny_detectors import detector_config


def run(encoder, tokens):
    head = nn.Linear(DIMS, 7)
    return encoder(tokens, DetectorParts(TokenProjection(DIMS), lambda layer: head))


def added(where, **selector):
    """What is added to the memory, the embedding of each cell, the output."""
    torch.manual_seed(0)
    tokens = small_grid([(1.0, 1.0), (0.5, 0.6)])
    settings = dict(type="SalienceTokenSelector", **selector)
    encoder = small_encoder(background_embedding=where, selector=settings)
    torch.manual_seed(1)
    output = run(encoder, tokens)
    embedding, encoder.background = encoder.background, None
    torch.manual_seed(1)
    memory = run(encoder, tokens).memory
    cells = [
        torch.cat([embedding.columns[j], embedding.rows[i]])
        for h, w in SHAPES
        for i in range(h)
        for j in range(w)
    ]
    return output.memory - memory, torch.stack(cells), output


@torch.no_grad()
@pytest.mark.parametrize("where", ["released", "never_kept"])
@pytest.mark.parametrize("count", ["image", "batch"])
def test_tokens_that_are_not_refined_get_the_embedding_of_their_cell(where, count):
    difference, cells, output = added(where, test_count=count)
    tokens, layers = output.tokens, output.layers
    if where == "released":
        without = layers[-1].mask(tokens.num_tokens, carried=True)
    else:
        without = layers[0].mask(tokens.num_tokens)
    without = (without | tokens.padding_mask).unsqueeze(-1)
    assert without.any() and not without.all()
    assert torch.allclose(difference, torch.where(without, 0.0, cells), atol=1e-5)
    dropped = layers[0].mask(tokens.num_tokens) & ~layers[-1].mask(tokens.num_tokens, carried=True)
    assert dropped.any()
    assert (difference[dropped].abs().sum(-1) > 0).all() == (where == "released")


@torch.no_grad()
def test_a_level_of_more_cells_than_the_tables_is_interpolated():
    embedding = BackgroundEmbedding(4, cells=200, where="never_kept")
    embedding.rows.copy_(torch.arange(200.0)[:, None].expand(-1, 2))
    embedding.columns.zero_()
    tokens = make_grid(((399, 2),), channels=4)
    nothing = torch.zeros(1, 0, dtype=torch.long)
    layers = [LayerSelection(nothing, nothing.bool(), nothing.bool())]
    memory = embedding(torch.zeros_like(tokens.features), tokens, layers)
    # 399 rows over 200 entries: every second one is an entry of its own
    assert torch.allclose(memory[0, ::2, 2], torch.arange(399.0) / 2, atol=1e-3)
    short = make_grid(((200, 1),), channels=4)
    memory = embedding(torch.zeros_like(short.features), short, layers)
    assert torch.equal(memory[0, :, 3], torch.arange(200.0))


def test_a_detectors_initialisation_leaves_the_tables_uniform():
    settings = dict(type="DualAttentionEncoder", background_embedding="released")
    background = build(detector_config("DINO", settings)).encoder.background
    for table in (background.rows, background.columns):
        assert table.shape == (200, 128)
        assert 0 <= table.min() < 0.01 and 0.99 < table.max() <= 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (dict(background_embedding="always"), "encoder.background_embedding must be one of"),
        (
            dict(background_embedding="released", background_cells=0),
            "encoder.background_cells must be at least 1",
        ),
    ],
)
def test_bad_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        small_encoder(**setting)
