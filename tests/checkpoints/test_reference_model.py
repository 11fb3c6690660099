"""Whole released detectors beside reference fixtures, and how ties are settled."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reference.checks import verify
from reference.model import Agreement, settle_ties
from reference.ties import FirstStageScores

MODELS = Path(__file__).parents[1] / "fixtures" / "models"


def altered(path: Path, **changes: Any) -> Path:
    with np.load(MODELS / "dn_deformable_detr_r50.npz") as archive:
        data = {name: archive[name] for name in archive.files}
    np.savez(path, **{**data, **{name: change(data[name]) for name, change in changes.items()}})
    return path


@pytest.mark.slow
def test_other_weights_fail(tmp_path: Path) -> None:
    other = altered(tmp_path / "other.npz", seed=lambda seed: seed + 1)
    assert not any(check.passed for check in verify(other))


def test_unfitting_weights_are_refused(tmp_path: Path) -> None:
    def without_queries(text: Any) -> str:
        shapes = json.loads(str(text))
        del shapes["refpoint_embed.weight"]
        return json.dumps(shapes)

    part = altered(tmp_path / "part.npz", param_shapes=without_queries)
    with pytest.raises(ValueError, match=r"missing: 1 .*anchor_embedding"):
        verify(part)


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
