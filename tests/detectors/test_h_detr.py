"""H-DETR: its two groups of queries, and what remains of them at test time."""

from __future__ import annotations

from typing import Any

import torch

from tiny import batch, build
from tiny_detectors import QUERIES, detector_config


def states(model: torch.nn.Module, training: bool) -> torch.Tensor:
    """The decoder's output."""
    torch.manual_seed(0)
    given = batch((2,))
    with torch.no_grad():
        features = model.train(training).extract_feat(given["inputs"])
        actual: Any = model.forward_transformer(features, given["data_samples"])
    return actual["hidden_states"]


def test_only_one_to_one_queries_at_test_time() -> None:
    model = build(detector_config("HDETR"))
    test, train = states(model, False), states(model, True)
    assert test.shape[2] == QUERIES
    assert train.shape[2] == QUERIES + model.num_queries_one2many
    # and they never saw the others
    torch.testing.assert_close(train[:, :, :QUERIES], test)


def test_without_its_tricks_it_is_two_stage_deformable_detr() -> None:
    hybrid = build(detector_config("HDETR", mixed_selection=False, look_forward_twice=False))
    plain = build(detector_config("two-stage DeformableDETR"))
    with torch.no_grad():
        for branch in hybrid.bbox_head.reg_branches:  # boxes that move
            branch[-1].weight.normal_(std=0.02)
    plain.load_state_dict(hybrid.state_dict())
    torch.testing.assert_close(states(hybrid, False), states(plain, False), rtol=1e-3, atol=1e-3)


def test_losses_of_both_matchings() -> None:
    """Each box is matched k times by the second, whose losses have a weight."""
    actual, seen = [], []
    for weight in (1.0, 0.25):
        config = detector_config("HDETR")
        config.bbox_head.one2many_weight = weight
        model = build(config).train()
        assigner = model.bbox_head.assigner
        assign = assigner.assign
        assigner.assign = lambda assign=assign, **kw: (
            seen.append((len(kw["pred_instances"]), len(kw["gt_instances"]))) or assign(**kw)
        )
        torch.manual_seed(1)
        actual.append(model(**batch((2,)), mode="loss"))
    assert seen.count((QUERIES, 2)) == 2 * 2  # two decoder layers
    second = (model.num_queries_one2many, 2 * model.bbox_head.k_one2many)
    assert seen.count(second) == 2 * 2
    kinds = [f"loss_{what}" for what in ("cls", "bbox", "iou")]
    both = [f"{layer}{kind}" for layer in ("", "d0.") for kind in kinds]
    first = [f"enc_{kind}" for kind in kinds]
    assert set(actual[0]) == {*both, *(f"{name}_one2many" for name in both), *first}
    for name, loss in actual[0].items():
        scale = 0.25 if name.endswith("_one2many") else 1.0
        torch.testing.assert_close(scale * loss, actual[1][name])
