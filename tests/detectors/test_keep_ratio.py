"""The keep ratio as a dial, and what a checkpoint says about it."""

from __future__ import annotations

import pytest
import torch
from mmengine.runner.checkpoint import load_checkpoint, save_checkpoint

from sparse_encoders.selectors import FocusTokenSelector
from tiny import batch, build
from tiny_detectors import detector_config

SPARSE = dict(type="SparseDETREncoder", selector=dict(keep_ratio=0.5))


def kept(model):
    """Tokens that each layer keeps of one image."""
    model.test_cfg["report_tokens"] = True
    with torch.no_grad():
        (actual,) = model.eval()(**batch((1,)), mode="predict")
    return actual.token_selection.kept.sum(1).tolist()


def make(**test_cfg):
    return build(detector_config("DINO", SPARSE, test_cfg=dict(max_per_img=50, **test_cfg)))


def test_config_option_changes_testing_only_and_the_method_both():
    model, dialled = make(), make(keep_ratio=0.2)
    tokens = 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2
    assert kept(model) == [int(tokens * 0.5) + 1] * 2
    assert kept(dialled) == [int(tokens * 0.2) + 1] * 2
    selector = dialled.encoder.selector
    assert selector.train().active_schedule.ratio == 0.5
    before = {k: v.clone() for k, v in dialled.state_dict().items()}
    dialled.set_keep_ratio([0.8, 0.1])
    first, second = kept(dialled)
    assert first > second
    assert selector.train().active_schedule.per_layer == pytest.approx((0.8, 0.1))
    assert all(torch.equal(v, before[k]) for k, v in dialled.state_dict().items())


def test_checkpoint_says_what_it_was_trained_at(tmp_path):
    model = make().train()
    assert model.encoder.selector.trained_keep_ratio is None
    keys = set(model.state_dict())
    model(**batch((1,)), mode="loss")
    assert set(model.state_dict()) == keys, "no key is added"
    save_checkpoint(dict(state_dict=model.state_dict()), str(tmp_path / "trained.pth"))
    dialled, again = make(keep_ratio=0.1), make()
    load_checkpoint(dialled, str(tmp_path / "trained.pth"), strict=True)
    again.load_state_dict(dialled.state_dict())  # passed on by a model that was not trained
    for each in (dialled, again):
        assert each.encoder.selector.trained_keep_ratio == (0.5, 0.5)


def test_weights_without_a_ratio_load_without_complaint():
    selector = FocusTokenSelector()
    selector.load_state_dict(dict(selector.state_dict()))
    assert selector.trained_keep_ratio is None
