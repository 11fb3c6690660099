"""RT-DETR's hybrid encoder: padding, sizes, position embedding, batch norm, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from grids import DIMS, PADDED, lent, make_grid, small_encoder
from sparse_encoders.encoders import HybridEncoder
from sparse_encoders.encoders.aifi import sine_embedding
from sparse_encoders.tokens import TokenGrid

SHAPES = ((8, 12), (4, 6), (2, 3))
GN = dict(type="GN", num_groups=4)


def hybrid(shapes=SHAPES, **settings):
    """Its batch norms have averages, as trained ones do."""
    built = small_encoder(
        HybridEncoder, num_levels=len(shapes), feedforward_channels=48, **settings
    )
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    return built


def run(encoder, tokens):
    return encoder(tokens, lent()).memory


def grid(valid=None, shapes=SHAPES):
    return make_grid(shapes, valid, channels=DIMS)


@pytest.mark.parametrize(
    "shapes",
    [
        ((5, 7),),
        ((9, 11), (5, 6)),
        ((8, 10), (4, 5), (2, 3), (1, 2), (1, 1)),
        ((7, 9), (3, 5), (2, 2)),  # neither halves nor their ceilings
    ],
)
def test_any_number_of_levels_of_any_size(shapes):
    """And every level hears of every other."""
    tokens, encoder = grid(PADDED, shapes), hybrid(shapes)
    features = tokens.features.clone().requires_grad_()
    memory = run(encoder, tokens.replace_features(features))
    assert memory.shape == tokens.features.shape and memory.isfinite().all()
    for part in tokens.level_slices:
        (gradient,) = torch.autograd.grad(memory[0, part].sum(), features, retain_graph=True)
        assert all(gradient[0, other].abs().sum() > 0 for other in tokens.level_slices)


@pytest.mark.parametrize("norm_cfg", [None, GN])
def test_what_stands_in_padding_does_not_matter(norm_cfg):
    tokens, encoder = grid(PADDED), hybrid(norm_cfg=norm_cfg)
    valid = ~tokens.padding_mask
    other = torch.where(valid.unsqueeze(-1), tokens.features, torch.randn(DIMS) * 9)
    ours, theirs = run(encoder, tokens), run(encoder, tokens.replace_features(other))
    assert torch.equal(ours[valid], theirs[valid])


def test_a_padded_image_is_what_it_is_alone():
    """Cells beyond the image are zero, as what convolutions pad with."""
    alone, encoder = grid(), hybrid()
    wide = tuple((2 * h, w + 4 // 2**level) for level, (h, w) in enumerate(SHAPES))
    maps, masks = [], []
    for (h, w), (tall, broad), part in zip(SHAPES, wide, alone.level_slices, strict=True):
        level = alone.features[:, part].transpose(1, 2).unflatten(2, (h, w))
        maps.append(F.pad(level, (0, broad - w, 0, tall - h), value=7.0))
        masks.append(torch.ones(1, tall, broad, dtype=torch.bool))
        masks[-1][:, :h, :w] = False
    padded = TokenGrid.from_maps(maps, maps, masks)
    actual = run(encoder, padded)[~padded.padding_mask]
    torch.testing.assert_close(actual, run(encoder, alone)[0], rtol=1e-4, atol=1e-5)


def test_the_position_of_a_cell():
    rows = sine_embedding(2, 3, 4, "rows")[0]  # one frequency: sin and cos of column and row
    cells = torch.tensor([[c, r] for r in range(2) for c in range(3)], dtype=torch.float32)
    (x, y) = cells.unbind(1)
    torch.testing.assert_close(rows, torch.stack([x.sin(), x.cos(), y.sin(), y.cos()], 1))
    released = sine_embedding(2, 3, 4, "released")[0]
    # the second token stands in row 0, column 1 and has the embedding of row 1, column 0
    torch.testing.assert_close(released[1], rows[3])
    torch.testing.assert_close(released.sort(0).values, rows.sort(0).values)
    tokens, encoder = grid(), hybrid()
    ours = run(encoder, tokens)
    encoder.attention.position = "released"
    assert not torch.allclose(run(encoder, tokens), ours, atol=1e-3)


def test_depth_expansion_and_the_levels_of_each_step():
    encoder = hybrid(expansion=0.5, depth_mult=0.67)
    assert run(encoder, grid()).isfinite().all()
    (block, _) = encoder.fusion.top_down
    assert len(block.blocks) == 2 and block.deep.conv.weight.shape == (DIMS // 2, 2 * DIMS, 1, 1)
    assert [list(encoder.refined_levels(step)) for step in range(3)] == [[2], [0, 1, 2], [1, 2]]


def test_a_step_that_runs_again_counts_once_in_the_averages():
    averages = []
    for num_cp in (0, 3):
        torch.manual_seed(0)
        encoder, tokens = hybrid(num_cp=num_cp).train(), grid(PADDED)
        run(encoder, tokens).sum().backward()
        averages.append([b.clone() for b in encoder.buffers()])
        assert {m.momentum for m in encoder.modules() if hasattr(m, "running_mean")} == {0.1}
    assert all(torch.equal(one, other) for one, other in zip(*averages, strict=True))
    assert all(int(b) == 1 for b in averages[0] if b.dim() == 0)


def test_convolutions_begin_as_released():
    encoder = hybrid()  # with Xavier's weights, as from a detector
    encoder.init_own_weights()
    largest = float(encoder.fusion.down[0].conv.weight.detach().abs().max())
    assert largest <= (9 * DIMS) ** -0.5 < 1.2 * largest


def test_refused_tokens():
    with pytest.raises(ValueError, match=r"encoder\.num_levels is 3, got 2 feature levels"):
        run(hybrid(), grid(shapes=SHAPES[:2]))
    single = grid(shapes=((4, 4), (2, 2), (1, 1)))
    with pytest.raises(ValueError, match=r"norm_cfg: batch norm cannot be trained on one image"):
        run(hybrid().train(), single)
    assert run(hybrid(norm_cfg=GN).train(), single).isfinite().all()
    twice = replace(grid([(1.0, 1.0)] * 2, single.shapes), padding_mask=None)
    assert run(hybrid().train(), twice).isfinite().all()
