"""Whole released detectors, and the settings that Lite DETR's fixtures may have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reference import all_checks
from reference.checks import verify
from reference.lite import build_encoder, lite_state
from reference.model import Agreement, settle_ties
from reference.ties import FirstStageScores
from sparse_encoders.checkpoints.names_detectors import released_names
from sparse_encoders.checkpoints.released import model_config

MODELS = Path(__file__).parents[1] / "fixtures" / "models"
all_checks()


@pytest.mark.slow
def test_a_released_model_agrees() -> None:
    """The others go by way of a file, in test_converting."""
    results = verify(MODELS / "h_deformable_detr_r50.npz")
    assert results
    assert [c for c in results if not c.passed] == []


@pytest.mark.slow
def test_other_weights_fail(tmp_path: Path) -> None:
    with np.load(MODELS / "dn_deformable_detr_r50.npz") as archive:
        data = {name: archive[name] for name in archive.files}
    np.savez(tmp_path / "other.npz", **{**data, "seed": data["seed"] + 1})
    assert not any(check.passed for check in verify(tmp_path / "other.npz"))


def test_unfitting_weights_are_refused(tmp_path: Path) -> None:
    with np.load(MODELS / "dn_deformable_detr_r50.npz") as archive:
        data = {name: archive[name] for name in archive.files}
    shapes = json.loads(str(data["param_shapes"]))
    del shapes["refpoint_embed.weight"]
    np.savez(tmp_path / "part.npz", **{**data, "param_shapes": json.dumps(shapes)})
    with pytest.raises(ValueError, match=r"missing: 1 .*anchor_embedding"):
        verify(tmp_path / "part.npz")


def test_unknown_families_are_refused() -> None:
    with pytest.raises(ValueError, match=r"family must be one of .* got 'yolo'"):
        model_config("yolo", {}, {})
    with pytest.raises(ValueError, match="the names of family 'yolo' are not known; accepted"):
        released_names("yolo", 6)


def test_only_near_ties_are_swapped() -> None:
    branch = torch.nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        branch.weight.copy_(torch.tensor([[1.0], [0.0]]))
    tokens = torch.tensor([0.0, 1.0, 0.5, 0.5 + 4e-7, 0.3]).view(1, 5, 1)
    scores = FirstStageScores(branch)
    with scores.watching():
        branch(tokens)
    (tie,) = scores.ties(0, limit=4)
    assert tie[0] == 2
    scores.nudges = dict([tie])
    with scores.watching():
        swapped = branch(tokens)[0, :, 0]
    assert swapped.argsort(descending=True).tolist() == [1, 2, 3, 4, 0]
    assert not branch._forward_hooks


def test_agreement_is_reported_before_and_after_swaps() -> None:
    """A pair that only rounding ranks stands the other way round in one of two images."""
    scores = FirstStageScores(torch.nn.Linear(1, 1, bias=False), by_class=False)
    scores.logits = torch.tensor([3.0, 2.0, 2.0 - 4e-7, 1.0]).view(1, 4, 1).expand(2, 4, 1)
    good = Agreement(matched=300, expected=300, actual=300, distance=1.0)
    bad = Agreement(matched=285, expected=300, actual=300, distance=90.0)

    def compare() -> list[Agreement]:
        return [good, good if scores.nudges else bad]

    results, gaps = settle_ties(0, compare(), compare, scores, num_queries=3)
    assert (results, gaps) == ([good, bad], [])
    results, gaps = settle_ties(1, results, compare, scores, num_queries=3)
    assert results == [good, good]
    assert len(gaps) == 1
    check = bad.check(1, results[1], gaps)
    assert check.passed
    assert re.findall(r"(\d+) of (\d+)", check.detail) == [("285", "300"), ("300", "300")]
    assert gaps[0] in check.detail
    assert not bad.check(1).passed
    assert re.findall(r"(\d+) of (\d+)", bad.check(1).detail) == [("285", "300")]


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("key_aware", [False, True])
def test_settings_of_lite_fixtures(key_aware: bool, same: bool) -> None:
    config: dict[str, Any] = dict(
        spatial_shapes=[[4, 4], [2, 2], [1, 1]],
        num_layers=2,
        blocks=1,
        high_levels=1,
        ffn_dim=8,
        small_low_level_ffn=False,
        key_aware=key_aware,
        same_locations_on_every_level=same,
        separate_key_projection=True,
        num_heads=2,
        num_points=2,
        embed_dim=16,
    )
    encoder = build_encoder(config)
    released = {}
    for index in range(2):
        name = f"encoder.layers.{index}."
        shapes = {"sampling_offsets": 2 * (1 if same else 3) * 2 * 2, "query_proj": 16}
        shapes.update(value_proj=16, key_proj=16, output_proj=16)
        if not key_aware:
            shapes["attention_weights"] = 2 * 3 * 2
        for part, size in shapes.items():
            released[f"{name}self_attn.{part}.weight"] = torch.randn(size, 16)
            released[f"{name}self_attn.{part}.bias"] = torch.randn(size)
        for part, shape in (("linear1", (8, 16)), ("linear2", (16, 8))):
            released[f"{name}{part}.weight"] = torch.randn(*shape)
            released[f"{name}{part}.bias"] = torch.randn(shape[0])
        for part in ("norm1", "norm2"):
            released[f"{name}{part}.weight"] = torch.randn(16)
            released[f"{name}{part}.bias"] = torch.randn(16)
    encoder.load_state_dict(lite_state(released, config))  # strict
    if same and not key_aware:
        bias = encoder.layers[0].self_attn.sampling_offsets.bias.view(2, 3, 2, 2)
        assert torch.equal(bias[:, 0], bias[:, 2])
