"""The keep ratio as a dial, and what a checkpoint says about it."""

from __future__ import annotations

import pytest
import torch
from mmengine.runner.checkpoint import load_checkpoint, save_checkpoint

from sparse_encoders.selectors import FocusTokenSelector
from tiny import build, samples
from tiny_detectors import detector_config

HW = (64, 96)
SPARSE = dict(type="SparseDETREncoder", selector=dict(keep_ratio=0.5))


def kept(model):
    """Tokens that each layer keeps of one image."""
    batch = samples([HW], HW, (1,))
    model.test_cfg["report_tokens"] = True
    with torch.no_grad():
        (actual,) = model(torch.randn(1, 3, *HW), batch, mode="predict")
    return actual.token_selection.kept.sum(1).tolist()


def make(**test_cfg):
    return build(detector_config("DINO", SPARSE, test_cfg=dict(max_per_img=50, **test_cfg)))


def test_config_option_changes_testing_only():
    model, dialled = make().eval(), make(keep_ratio=0.2).eval()
    tokens = 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2
    assert kept(model) == [int(tokens * 0.5) + 1] * 2
    assert kept(dialled) == [int(tokens * 0.2) + 1] * 2
    assert dialled.encoder.selector.train().active_schedule.ratio == 0.5


def test_method_and_per_layer_ratios():
    model = make(keep_ratio=0.2).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.set_keep_ratio([0.8, 0.1])
    first, second = kept(model)
    assert first > second
    assert model.encoder.selector.train().active_schedule.per_layer == pytest.approx((0.8, 0.1))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("ratio", "message"),
    [
        (0, r"keep_ratio must lie in \(0, 1\], got 0"),
        (1.2, r"keep_ratio must lie in \(0, 1\], got 1.2"),
        ([0.5], "keep_ratio lists 1 values for 2 encoder layers"),
        ([0.2, 0.5], "a cascade must not increase from layer to layer"),
    ],
)
def test_bad_ratios_fail_before_anything_runs(ratio, message):
    with pytest.raises(ValueError, match=message):
        make(keep_ratio=ratio)


def test_a_dense_model_has_no_dial():
    with pytest.raises(ValueError, match="DenseEncoder has no selector, so no keep ratio"):
        build(detector_config("DINO", test_cfg=dict(max_per_img=50, keep_ratio=0.5)))


def test_checkpoint_says_what_it_was_trained_at(tmp_path):
    model = make().train()
    assert model.encoder.selector.trained_keep_ratio is None
    keys = set(model.state_dict())
    model(torch.randn(1, 3, *HW), samples([HW], HW, (1,)), mode="loss")
    assert set(model.state_dict()) == keys, "no key is added"
    save_checkpoint(dict(state_dict=model.state_dict()), str(tmp_path / "trained.pth"))
    dialled = make(keep_ratio=0.1)
    load_checkpoint(dialled, str(tmp_path / "trained.pth"), strict=True)
    assert dialled.encoder.selector.trained_keep_ratio == (0.5, 0.5)
    # passed on by a model that was loaded and not trained
    again = make()
    again.load_state_dict(dialled.state_dict())
    assert again.encoder.selector.trained_keep_ratio == (0.5, 0.5)


def test_weights_without_a_ratio_load_without_complaint():
    selector = FocusTokenSelector()
    bare = dict(selector.state_dict())
    missing, unexpected = selector.load_state_dict(bare)
    assert not missing and not unexpected and selector.trained_keep_ratio is None
