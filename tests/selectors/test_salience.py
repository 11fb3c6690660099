"""Salience DETR's token selector: scores, quotas, loss."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from grids import make_grid
from sparse_encoders.contracts import DetectorParts
from sparse_encoders.selectors import SalienceTokenSelector
from sparse_encoders.selectors.learned import TokenProjection

SHAPES = ((8, 10), (4, 5), (2, 3), (1, 1))
DIMS = 16


def make(**kwargs):
    return SalienceTokenSelector(**{"num_layers": 3, "embed_dims": DIMS, **kwargs})


def parts():
    return DetectorParts(projection=TokenProjection(DIMS))


def grid(valid=None, shapes=SHAPES):
    return make_grid(shapes, valid, channels=DIMS)


class Given(SalienceTokenSelector):
    """Scores that a test sets."""

    scores: torch.Tensor

    def score(self, tokens, detector):
        return self.scores


@pytest.mark.parametrize(("changed", "untouched"), [(0, (1, 2, 3)), (2, (3,))])
def test_alpha_is_indexed_by_level_the_finest_first(changed, untouched):
    tokens, lent, selector = grid(), parts(), make(modulation_place="after_norm")
    before = selector.score(tokens, lent)
    with torch.no_grad():
        selector.alpha[changed] += 1.0
    difference = (selector.score(tokens, lent) - before).abs()
    for level, part in enumerate(tokens.level_slices):
        assert (difference[:, part].max() == 0) == (level in untouched), level


def released_selection(scores, padding, tokens, v, w):
    """The released code's way, step by step: sorted indices of each layer, count of each image."""
    chosen, values, counts = [], [], torch.zeros(scores.shape[0], dtype=torch.long)
    for level, part in enumerate(tokens.level_slices):
        valid = (~padding[:, part]).sum(1)
        own = (valid * torch.tensor(v[level])).int()
        counts += own
        level_scores = scores[:, part].clone()
        # a hair lower: which of equal scores comes first is left to chance in the release
        level_scores[padding[:, part]] = level_scores.min().nextafter(torch.tensor(-torch.inf))
        best = level_scores.topk(int(own.max()), dim=1)
        values.append(best.values)
        chosen.append(best.indices + part.start)
    order = torch.cat(values, 1).sort(dim=1, descending=True, stable=True).indices
    ranked = torch.cat(chosen, 1).gather(1, order)
    sizes = [int(torch.tensor(f) * ranked.shape[1]) for f in w]
    # but for no token at all, on which the release would stop
    return [ranked[:, : max(size, 1)] for size in sizes], counts


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.lists(st.tuples(st.floats(0.1, 1.0), st.floats(0.1, 1.0)), min_size=2, max_size=3),
    st.tuples(*[st.floats(0.05, 1.0)] * 3, st.just(1.0)),
)
@example(37780, [(0.25, 1.0), (1.0, 0.5)], (1.0, 1.0, 1.0, 1.0))  # equal scores
def test_counted_over_the_batch_as_released(seed, valid, v):
    torch.manual_seed(seed)
    tokens, w = grid(valid), (1.0, 0.6, 0.3)
    selector = Given(3, embed_dims=DIMS, level_ratios=v, layer_ratios=w, test_count="batch").eval()
    selector.scores = torch.randn(len(valid), tokens.num_tokens)
    selection = selector.select(tokens, parts())
    expected, counts = released_selection(selector.scores, tokens.padding_mask, tokens, v, w)
    assert selection.groups[0].num_foreground.tolist() == counts.tolist()
    for layer, released in zip(selection.groups[0].layers, expected, strict=True):
        carried = layer.mask(tokens.num_tokens, carried=True)
        released_mask = torch.zeros_like(carried).scatter(1, released, True)
        assert torch.equal(carried & ~tokens.padding_mask, released_mask & ~tokens.padding_mask)
        assert not (layer.mask(tokens.num_tokens) & tokens.padding_mask).any()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=4, max_size=4),
    st.lists(st.tuples(st.floats(0.1, 1.0), st.floats(0.1, 1.0)), min_size=1, max_size=3),
)
def test_an_image_keeps_the_best_of_each_level_up_to_its_quota(shapes, valid):
    tokens, selector = grid(valid, shapes), Given(3, embed_dims=DIMS).eval()
    selector.scores = torch.rand(len(valid), tokens.num_tokens)
    selection = selector.select(tokens, parts())
    first = selection.groups[0].layers[0].mask(tokens.num_tokens)
    own = selector.quotas.level_counts(tokens, tokens.all_levels)
    for column, part in enumerate(tokens.level_slices):
        assert first[:, part].sum(1).tolist() == own[:, column].tolist()
        out = (~first & ~tokens.padding_mask)[:, part]
        worst = selector.scores[:, part].masked_fill(~first[:, part], torch.inf).amin(1)
        assert (selector.scores[:, part].masked_fill(~out, -1).amax(1) <= worst).all()
    for layer, factor in zip(selection.groups[0].layers, selector.quotas.factors, strict=True):
        limits = (own.sum(1).float() * factor).long().clamp(min=1)
        assert layer.kept.sum(1).tolist() == limits.tolist()
        # of all levels the best first
        ranked = layer.gather(selector.scores).masked_fill(~layer.kept, -1)
        assert (ranked[:, 1:] <= ranked[:, :-1]).all()


def test_groups_of_levels_have_their_quotas():
    tokens, selector = grid([(1.0, 1.0), (0.5, 0.6)]), make().eval()
    low, high = selector.select(tokens, parts(), [range(1), range(1, 4)]).groups
    assert low.num_foreground.tolist() == [32, 9]  # 0.4 of 80 and of 24
    assert high.num_foreground.tolist() == [16 + 6 + 1, 4 + 2 + 1]  # 0.8 of 20 and of 6; 6 and 2; 1
    assert low.layers[0].mask(107).any(0).nonzero().max() < 80
    assert high.layers[0].mask(107).any(0).nonzero().min() >= 80


@pytest.mark.parametrize("keep_ratio", [None, 0.01])
@pytest.mark.parametrize("shapes", [((1, 1),) * 4, ((2, 1), (1, 1), (1, 1), (1, 1))])
def test_images_smaller_than_the_quotas_keep_a_token(shapes, keep_ratio):
    tokens, selector = grid(shapes=shapes), make(keep_ratio=keep_ratio)
    selection = selector.select(tokens, parts())
    assert [int(layer.kept.sum()) for layer in selection.groups[0].layers] >= [1, 1, 1]
    groups = selector.select(tokens, parts(), [range(1), range(1, 4)]).groups
    assert all(layer.kept.sum() >= 1 for group in groups for layer in group.layers)


def test_the_keep_ratio_is_a_dial_and_travels_with_the_weights():
    tokens, lent, selector = grid(), parts(), make()
    selector.note_training()
    released = selector.trained_keep_ratio
    assert released == pytest.approx([0.5106, 0.3064, 0.1021], abs=1e-3)
    selector.set_keep_ratio(0.15, test_only=True)
    assert selector.schedule.per_layer == released
    assert selector.eval().active_schedule.average == pytest.approx(0.15)
    other = make(keep_ratio=0.2)
    other.load_state_dict(selector.state_dict())
    assert other.trained_keep_ratio == released
    assert other.schedule.average == pytest.approx(0.2)
    other.set_keep_ratio(1.0)
    whole = other.select(tokens, lent)
    assert all(layer.kept.sum() == tokens.num_tokens for layer in whole.groups[0].layers)
    other.set_keep_ratio(None)
    assert other.schedule == make().schedule


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (dict(modulation_place="inside"), "modulation_place must be one of"),
        (
            dict(num_levels=1, intervals=None, modulation_place="after_norm"),
            "at least two feature levels",
        ),
        (dict(intervals="wide"), "intervals must be one of"),
        (dict(num_levels=5), "intervals must have one entry for each of the 5 feature levels"),
        (dict(level_ratios=(0.4, 0.8)), "level_ratios must have one entry for each of the 4"),
        (dict(loss_weight=-1.0), "loss_weight must not be negative"),
        (dict(keep_ratio=1.5), r"keep_ratio must lie in \(0, 1\]"),
    ],
)
def test_bad_settings_are_refused_when_built(setting, message):
    with pytest.raises(ValueError, match=message):
        make(**setting)
