"""The base of selectors with a score MLP, and what it takes from its parents."""

from __future__ import annotations

import pytest
import torch

from grids import make_grid
from sparse_encoders.contracts import DetectorParts, Targets
from sparse_encoders.registry import MODELS
from sparse_encoders.selectors import LearnedSelector, SalienceTokenSelector
from sparse_encoders.selectors.learned import TokenProjection

SHAPES = ((8, 8), (4, 4), (2, 2), (1, 1))
DIMS = 16


class OneMLP(LearnedSelector):
    def score(self, tokens, detector):
        return self.score_mlp(self.project(tokens, detector))


def test_a_detectors_first_stage_goes_before_none_and_is_not_copied():
    tokens = make_grid(SHAPES, channels=DIMS)
    lent, shared = TokenProjection(DIMS), OneMLP(num_layers=1, embed_dims=DIMS, keep_ratio=0.2)
    own = OneMLP(num_layers=1, embed_dims=DIMS, first_stage=False)
    assert not any("projection" in name for name in shared.state_dict())
    own.projection.load_state_dict(lent.state_dict())
    ours, theirs = own.project(tokens, DetectorParts()), shared.project(tokens, DetectorParts(lent))
    assert torch.equal(ours, theirs)
    (group,) = shared.select(tokens, DetectorParts(lent)).groups
    assert group.layers[0].size == int(0.2 * 85) + 1
    with pytest.raises(ValueError, match="OneMLP was built for a two-stage detector"):
        shared.score(tokens, DetectorParts())


def test_what_is_nan_or_out_of_range_reaches_no_other_token():
    tokens = make_grid(SHAPES, [(0.5, 0.5)], channels=DIMS)
    features = tokens.features.clone()
    features[0, 3] = torch.nan
    selector = OneMLP(num_layers=1, embed_dims=DIMS, first_stage=False)
    z = selector.project(tokens.replace_features(features), DetectorParts())
    nothing = selector.projection(torch.zeros(1, 1, DIMS))
    zeroed = tokens.unusable[0, :, 0].clone()
    zeroed[3] = True
    assert torch.allclose(z[0, zeroed], nothing.expand(1, int(zeroed.sum()), -1)[0])
    assert not (z[0, ~zeroed] - nothing).abs().amax(-1).min() < 1e-4


def test_salience_scores_without_quotas_rank_all_levels_together():
    tokens, lent = make_grid(SHAPES, channels=DIMS), DetectorParts(TokenProjection(DIMS))
    settings = dict(num_layers=2, embed_dims=DIMS, keep_ratio=0.3, by_level=False)
    selector = SalienceTokenSelector(**settings, cascade=False)
    (group,) = selector.select(tokens, lent).groups
    best = selector.score(tokens, lent).topk(26).indices
    assert group.layers[0].indices.sort().values.tolist() == best.sort().values.tolist()
    with pytest.raises(ValueError, match=r"level_ratios needs selector\.by_level=True"):
        SalienceTokenSelector(**settings, level_ratios=(0.1, 0.2, 0.3, 1.0))


LEARNED = pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("DecoderAttentionSelector", {}),
        ("FocusTokenSelector", {}),
        ("FocusTokenSelector", dict(modulation=None)),
        ("SalienceTokenSelector", dict(intervals=None)),
        ("SalienceTokenSelector", dict(intervals=None, modulation_place="after_norm")),
    ],
)


def build(kind, **settings):
    return MODELS.build(
        dict(type=kind, num_layers=2, embed_dims=DIMS, first_stage=False, **settings)
    )


@LEARNED
def test_the_loss_gives_every_parameter_a_gradient_and_has_a_weight(kind, settings):
    tokens = make_grid(SHAPES, [(1.0, 1.0), (0.5, 0.5)], channels=DIMS)
    boxes = [torch.tensor([[0.0, 0.0, 60.0, 60.0]]), torch.zeros(0, 4)]
    labels, attention = [torch.zeros(1), torch.zeros(0)], torch.rand(2, tokens.num_tokens)
    targets = Targets(boxes, labels, attention)
    selector = build(kind, loss_weight=1.5, **settings)
    selection = selector.select(tokens, DetectorParts())
    (loss,) = selector.loss(selection, tokens, targets).values()
    loss.backward()
    for name, parameter in selector.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    (double,) = build(kind, loss_weight=3.0, **settings).loss(selection, tokens, targets).values()
    assert torch.allclose(2 * loss, double)
    nothing = Targets([torch.zeros(0, 4)] * 2, [torch.zeros(0)] * 2, attention)
    (loss,) = selector.loss(selection, tokens, nothing).values()
    assert loss.isfinite() and loss > 0


@LEARNED
def test_a_token_that_is_not_a_number_ranks_last(kind, settings):
    tokens, selector = make_grid(SHAPES, channels=DIMS), build(kind, **settings).eval()
    features = tokens.features.clone()
    features[0, 40] = torch.nan
    assert not tokens.unusable[0, 40]  # inside the image: projected
    selection = selector.select(tokens.replace_features(features), DetectorParts())
    assert selection.logits.isnan().sum() == 1 and selection.scores.isfinite().all()
    assert not selection.groups[0].layers[0].mask(tokens.num_tokens)[0, 40]
