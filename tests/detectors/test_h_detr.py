"""H-DETR: its two groups of queries, and what remains of them at test time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tiny import build, samples
from tiny_detectors import QUERIES, detector_config

SIZE = (64, 96)


def transformed(model: torch.nn.Module, training: bool) -> dict[str, Any]:
    torch.manual_seed(0)
    model.train(training)
    with torch.no_grad():
        features = model.extract_feat(torch.randn(1, 3, *SIZE))
        return model.forward_transformer(features, samples([SIZE], SIZE, boxes=(2,)))


def test_only_one_to_one_queries_at_test_time() -> None:
    model = build(detector_config("HDETR"))
    test, train = transformed(model, False), transformed(model, True)
    assert test["hidden_states"].shape[2] == QUERIES
    assert train["hidden_states"].shape[2] == QUERIES + model.num_queries_one2many
    # and they never saw the others
    torch.testing.assert_close(train["hidden_states"][:, :, :QUERIES], test["hidden_states"])


def test_without_its_tricks_it_is_two_stage_deformable_detr() -> None:
    hybrid = build(detector_config("HDETR", mixed_selection=False, look_forward_twice=False)).eval()
    plain = build(detector_config("two-stage DeformableDETR")).eval()
    plain.load_state_dict(hybrid.state_dict())
    with torch.no_grad():
        for branch in plain.bbox_head.reg_branches:  # boxes that move
            branch[-1].weight.normal_(std=0.02)
    hybrid.load_state_dict(plain.state_dict())
    ours, theirs = transformed(hybrid, False), transformed(plain, False)
    torch.testing.assert_close(ours["hidden_states"], theirs["hidden_states"], rtol=1e-3, atol=1e-3)


def test_losses_of_both_matchings() -> None:
    model = build(detector_config("HDETR")).train()
    batch = samples([SIZE], SIZE, boxes=(2,))
    losses = model(torch.randn(1, 3, *SIZE), batch, mode="loss")
    kinds = [f"loss_{what}" for what in ("cls", "bbox", "iou")]
    both = [f"{layer}{kind}" for layer in ("", "d0.") for kind in kinds]
    first = [f"enc_{kind}" for kind in kinds]
    assert set(losses) == {*both, *(f"{name}_one2many" for name in both), *first}


def test_each_box_is_matched_k_times() -> None:
    model = build(detector_config("HDETR")).train()
    seen = []
    assign = model.bbox_head.assigner.assign
    model.bbox_head.assigner.assign = lambda **kw: (
        seen.append((len(kw["pred_instances"]), len(kw["gt_instances"]))) or assign(**kw)
    )
    model(torch.randn(1, 3, *SIZE), samples([SIZE], SIZE, boxes=(2,)), mode="loss")
    assert seen.count((QUERIES, 2)) == 2  # two decoder layers
    assert seen.count((model.num_queries_one2many, 2 * model.bbox_head.k_one2many)) == 2


def test_weight_of_the_second_matching() -> None:
    losses = []
    for weight in (1.0, 0.25):
        config = detector_config("HDETR")
        config.bbox_head.one2many_weight = weight
        model = build(config).train()
        torch.manual_seed(1)
        losses.append(model(torch.randn(1, 3, *SIZE), samples([SIZE], SIZE, (2,)), mode="loss"))
    torch.testing.assert_close(losses[0]["loss_cls"], losses[1]["loss_cls"])
    torch.testing.assert_close(
        0.25 * losses[0]["loss_cls_one2many"], losses[1]["loss_cls_one2many"]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(as_two_stage=False), "model.as_two_stage must be True for HDETR"),
        (dict(with_box_refine=False), "model.with_box_refine must be True for HDETR"),
        (dict(num_queries_one2many=0), "num_queries_one2many must be at least 1, got 0"),
        (dict(bbox_head=dict(k_one2many=0)), "bbox_head.k_one2many must be at least 1"),
        (dict(bbox_head=dict(one2many_weight=-1.0)), "one2many_weight must not be negative"),
        (dict(bbox_head=dict(type="DeformableDETRHead")), "must be HDETRHead"),
    ],
)
def test_refused_settings(changes: dict[str, Any], message: str) -> None:
    config = detector_config("HDETR")
    if "type" in changes.get("bbox_head", {}):
        config.bbox_head.pop("k_one2many")
    config.bbox_head.update(changes.pop("bbox_head", {}))
    config.update(changes)
    with pytest.raises((ValueError, TypeError), match=message):
        build(config)
