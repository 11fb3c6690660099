"""The embedding of the background."""

from __future__ import annotations

import pytest
import torch

from grids import PADDED, SHAPES, lent, make_grid, small_encoder, small_grid
from sparse_encoders.encoders.background import BackgroundEmbedding
from sparse_encoders.selectors import LayerSelection
from tiny import build
from tiny_detectors import detector_config


@torch.no_grad()
@pytest.mark.parametrize("where", ["released", "never_kept"])
@pytest.mark.parametrize("count", ["image", "batch"])
def test_tokens_that_are_not_refined_get_the_embedding_of_their_cell(where, count):
    tokens, parts = small_grid(PADDED), lent()
    selector = dict(type="SalienceTokenSelector", test_count=count)
    encoder = small_encoder(background_embedding=where, selector=selector)
    output = encoder(tokens, parts)
    embedding, encoder.background = encoder.background, None
    difference = output.memory - encoder(tokens, parts).memory
    cells = [
        torch.cat([embedding.columns[j], embedding.rows[i]])
        for h, w in SHAPES
        for i in range(h)
        for j in range(w)
    ]
    first = output.layers[0].mask(tokens.num_tokens)
    last = output.layers[-1].mask(tokens.num_tokens, carried=True)
    without = ((last if where == "released" else first) | tokens.padding_mask).unsqueeze(-1)
    assert without.any() and not without.all()
    expected = torch.where(without, 0.0, torch.stack(cells))
    assert torch.allclose(difference, expected, atol=1e-5)
    dropped = first & ~last
    assert dropped.any()
    assert (difference[dropped].abs().sum(-1) > 0).all() == (where == "released")


@torch.no_grad()
def test_a_level_of_more_cells_than_the_tables_is_interpolated():
    embedding = BackgroundEmbedding(4, cells=200, where="never_kept")
    embedding.rows.copy_(torch.arange(200.0)[:, None].expand(-1, 2))
    embedding.columns.zero_()
    nothing = torch.zeros(1, 0, dtype=torch.long)
    layers = [LayerSelection(nothing, nothing.bool(), nothing.bool())]
    # 399 rows over 200 entries: every second one is an entry of its own
    for shape, step in (((399, 2), 2), ((200, 1), 1)):
        tokens = make_grid((shape,))
        memory = embedding(torch.zeros_like(tokens.features), tokens, layers)
        rows = memory[0, :: shape[1], 2]
        torch.testing.assert_close(rows, torch.arange(shape[0]) / step, atol=1e-3, rtol=0)


def test_a_detectors_initialisation_leaves_the_tables_uniform():
    settings = dict(type="DualAttentionEncoder", background_embedding="released")
    background = build(detector_config("DINO", settings)).encoder.background
    for table in (background.rows, background.columns):
        assert table.shape == (200, 128)
        assert 0 <= table.min() < 0.01 and 0.99 < table.max() <= 1


def test_an_odd_number_of_channels_is_refused():
    with pytest.raises(ValueError, match="embed_dims must be even, got 5"):
        BackgroundEmbedding(5)
