"""As many dense layers as cost what another encoder does."""

from __future__ import annotations

import functools

import pytest

from sparse_encoders.analysis.complexity import count_complexity
from sparse_encoders.analysis.matching import match_dense, to_be_matched
from sparse_encoders.analysis.variants import encoder_config
from tiny import build
from tiny_detectors import detector_config

SIZE = (96, 128)


def cost(model):
    return count_complexity(build(model), SIZE).group("encoder").madds


@functools.cache
def dense_cost(layers):
    return cost(detector_config("DINO", dict(num_layers=layers)))


@pytest.mark.parametrize(
    ("ratio", "layers"),
    [
        (0.5, 3),
        pytest.param(0.05, 2, marks=pytest.mark.slow),
        pytest.param(1.0, 4, marks=pytest.mark.slow),
    ],
)
def test_no_other_number_of_layers_comes_closer(ratio, layers):
    model = detector_config("DINO", dict(num_layers=4))
    own = encoder_config("sparse", model.encoder, ratio)
    match = match_dense(model, "sparse", own, SIZE)
    assert match.layers == layers
    assert match.variant == ("dense" if layers == 4 else f"dense-{layers}")
    model.encoder = own
    assert match.wanted == cost(model)
    costs = {count: dense_cost(count) for count in range(1, 5)}
    assert costs[layers] == match.madds
    far = {count: abs(madds - match.wanted) for count, madds in costs.items()}
    assert min(far, key=far.get) == layers
    assert f"{layers} of 4 dense layers" in (text := str(match)) and f"to sparse {ratio:g}" in text


def test_quotas_have_no_one_ratio_and_there_is_at_least_one_layer():
    model = detector_config("DINO", dict(num_layers=4))
    match = match_dense(model, "salience", encoder_config("salience", model.encoder), SIZE)
    assert match.keep_ratio is None and "matched to salience, " in str(match)
    match = match_dense(model, "none", encoder_config("none", model.encoder), SIZE)
    assert (match.layers, match.wanted, match.variant) == (1, 0, "dense-1")


def test_who_is_matched():
    assert to_be_matched(["dense", "dense-1", "hybrid", "focus", "sparse"]) == "focus"
    assert to_be_matched(["none", "hybrid", "lite", "dense-matched"]) == "hybrid"
    with pytest.raises(ValueError, match="is matched to, such as focus; got dense"):
        to_be_matched(["dense", "dense-matched", "none"])
