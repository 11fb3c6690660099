"""The foreground token selector and its ablations."""

from __future__ import annotations

import pytest
import torch

from grids import make_grid
from sparse_encoders.contracts import DetectorParts, Targets
from sparse_encoders.selectors import FocusTokenSelector
from sparse_encoders.selectors.learned import TokenProjection
from sparse_encoders.tokens import TokenGrid

SHAPES = ((8, 8), (4, 4), (2, 2), (1, 1))
DIMS = 16


def make(**kwargs):
    return FocusTokenSelector(**{"num_layers": 2, "embed_dims": DIMS, **kwargs})


def parts():
    return DetectorParts(projection=TokenProjection(DIMS))


def grid(valid=None):
    return make_grid(SHAPES, valid, channels=DIMS)


def boxes(*per_image):
    actual = [torch.tensor(b, dtype=torch.float32).reshape(-1, 4) for b in per_image]
    return Targets(actual, [torch.zeros(len(b), dtype=torch.long) for b in actual])


def level_of(scores, tokens, level):
    return scores[:, tokens.level_slices[level]]


# The score MLP begins with a LayerNorm, which undoes the modulation's factor but for its epsilon
# (and its sign): effects fade from level to level, so this looks at float64 and two steps only.
@pytest.mark.parametrize(
    ("modulation", "step", "same", "changed"),
    [("top_down", 0, [3], [1, 2]), ("bottom_up", -1, [0, 1, 2], [3])],
)
def test_modulation_flows_from_level_to_level(modulation, step, same, changed):
    given = grid()
    double = given.features.double(), given.pos_embed.double()
    tokens = TokenGrid(*double, None, SHAPES, given.valid_ratios)
    selector = make(modulation=modulation).double()
    lent = DetectorParts(TokenProjection(DIMS).double())
    before = selector.score(tokens, lent)
    with torch.no_grad():
        selector.alpha[step] += 1.0
    after = selector.score(tokens, lent)
    for level in same + changed:
        equal = torch.equal(level_of(before, tokens, level), level_of(after, tokens, level))
        assert equal == (level in same), level


def test_zero_alpha_is_no_modulation():
    tokens, lent = grid(), parts()
    selector = make()
    with torch.no_grad():
        selector.alpha.zero_()
    plain = make(modulation=None)
    plain.load_state_dict({k: v for k, v in selector.state_dict().items() if k != "alpha"})
    assert torch.allclose(selector.score(tokens, lent), plain.score(tokens, lent))


def test_alpha_starts_in_the_papers_range():
    alpha = make().alpha
    assert alpha.shape == (3,)
    assert (alpha.abs() <= 0.3).all()
    assert alpha.unique().numel() == 3


@torch.no_grad()
def test_border_tokens_at_the_cut_are_the_same_in_every_batch():
    """Tokens without a usable proposal score alike but for rounding, which a batch changes."""
    shapes, dims = ((64, 80), (32, 40), (2, 2), (1, 1)), 64
    both = make_grid(shapes, [(0.8, 0.9), (1.0, 1.0)], channels=dims)
    alone = TokenGrid(
        both.features[:1],
        both.pos_embed[:1],
        both.padding_mask[:1],
        shapes,
        both.valid_ratios[:1],
        max_valid=int(both.num_valid()[0]),
    )
    lent, selector = DetectorParts(TokenProjection(dims)), make(embed_dims=dims).eval()
    scores = selector.select(alone, lent).scores[0]
    valid = ~alone.padding_mask[0]
    border = alone.unusable[0, :, 0] & valid
    assert border.sum() > 100
    middle = scores[border].median()
    better = int((scores[valid] > middle + 1e-5).sum())
    tied = int(((scores - middle).abs() < 1e-5)[valid].sum())
    assert tied > 100
    for rank in range(better + 5, better + tied - 5, tied // 6):
        ratio = rank / int(valid.sum())
        selector.set_keep_ratio([ratio, ratio / 2])
        first, second = (selector.select(g, lent).groups[0].layers[0] for g in (alone, both))
        assert torch.equal(first.mask(both.num_tokens)[0], second.mask(both.num_tokens)[0])


def test_unsupervised_has_a_zero_loss_that_reaches_every_parameter():
    tokens, lent = grid(), parts()
    selector = make(supervised=False)
    chosen = selector.select(tokens, lent)
    loss = selector.loss(chosen, tokens, boxes([[0, 0, 60, 60]]))["loss_foreground"]
    loss.backward()
    assert loss == 0
    assert all(p.grad is not None and not p.grad.any() for p in selector.parameters())


def test_the_factor_acts_only_where_no_norm_divides_it_out_again():
    tokens, lent = grid(), parts()
    released, acting = make(), make(modulation_place="after_norm")
    acting.load_state_dict(released.state_dict())
    plain = make(modulation=None)
    plain.load_state_dict({k: v for k, v in released.state_dict().items() if k != "alpha"})
    without = plain.score(tokens, lent)
    assert torch.allclose(released.score(tokens, lent), without, atol=1e-5)
    changed = (acting.score(tokens, lent) - without).abs()
    assert level_of(changed, tokens, 3).max() == 0
    assert all(level_of(changed, tokens, level).max() > 1e-4 for level in range(3))


def test_after_the_norm_by_hand():
    """LN(z) is multiplied with 1 + alpha * UP(S), then goes on through the MLP."""
    tokens, lent, selector = grid(), parts(), make(modulation_place="after_norm")
    logits = selector.score(tokens, lent)
    z = lent.projection(tokens.features + tokens.pos_embed)
    z = torch.where(tokens.unusable, lent.projection(torch.zeros_like(z)), z)
    normed = selector.score_mlp.embed[0](level_of(z, tokens, 2))
    factor = 1 + selector.alpha[0] * level_of(logits, tokens, 3)[..., None]  # 1 x 1, upsampled
    embedded = selector.score_mlp.embed[1:](normed * factor)
    local, shared = embedded.chunk(2, -1)
    joined = torch.cat([local, shared.mean(1, keepdim=True).expand_as(shared)], -1)
    by_hand = selector.score_mlp.head(joined).squeeze(-1)
    assert torch.allclose(level_of(logits, tokens, 2), by_hand, atol=1e-6)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (dict(modulation_place="inside"), "modulation_place must be one of"),
        (
            dict(modulation_place="after_norm", modulation=None),
            "needs a modulation and at least two feature levels",
        ),
        (dict(keep_ratio=None), "keep_ratio of FocusTokenSelector must be a number"),
        (dict(modulation="sideways"), "modulation must be one of"),
        (dict(intervals="wide"), "intervals must be one of"),
        (dict(intervals=[(-1, 64), (64, 128)]), "one entry for each of the 4 feature levels"),
        (dict(intervals=[(-1, 64), (64, 64), (64, 128), (128, 256)]), "low < high"),
        (dict(strides=(8, 16)), "strides must have one entry for each of the 4"),
        (dict(strides=(8, 16, 32, 0)), "strides must be integers"),
        (dict(loss_weight=-1.0), "loss_weight must not be negative"),
        (dict(keep_ratio=1.5), r"keep_ratio must lie in \(0, 1\]"),
        (dict(embed_dims=18), "embed_dims must be a multiple of 4"),
        (dict(num_levels=5), "one entry for each of the 5 feature levels"),
    ],
)
def test_bad_settings_are_refused_when_built(setting, message):
    with pytest.raises(ValueError, match=message):
        make(**setting)
