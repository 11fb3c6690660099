"""Models whose weights nobody reads at first."""

from __future__ import annotations

import copy

import torch
from mmdet.registry import MODELS

from sparse_encoders.skip_init import SkipInit
from tiny_detectors import detector_config


def test_nothing_is_drawn_and_all_else_is_as_ever() -> None:
    config = detector_config("DINO", dict(type="DualAttentionEncoder"))
    expected = MODELS.build(copy.deepcopy(config)).state_dict()
    before = torch.get_rng_state()
    with SkipInit():
        actual = MODELS.build(copy.deepcopy(config)).state_dict()
        assert torch.equal(torch.get_rng_state(), before)
        assert len(torch.rand(9).unique()) > 1
    assert not torch.equal(torch.get_rng_state(), before)
    assert {k: v.shape for k, v in actual.items()} == {k: v.shape for k, v in expected.items()}
    constants = [k for k in expected if ".bn" in k or ".norms" in k or k.endswith(".running_var")]
    assert len(constants) > 100
    assert all(torch.equal(actual[k], expected[k]) for k in constants)
