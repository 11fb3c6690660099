"""Strategies in three detectors: each learns a few pictures and is measured by a test run."""

from __future__ import annotations

import math

import pytest
import torch

import tiny_detectors
from quick import exhaustive_but
from tiny import build
from tiny_detectors import detector_config
from tiny_runs import make_runner

INTERVALS = ((-1, 16), (16, 32), (32, 64), (64, 1e4))


def pruned(encoder, selector, **settings):
    return dict(type=encoder, selector=dict(type=selector, keep_ratio=0.3, **settings))


ENCODERS = {
    **{name: tiny_detectors.ENCODERS[name] for name in ("dense", "none")},
    "hybrid": dict(type="HybridEncoder", norm_cfg=dict(type="GN", num_groups=32)),
    "sparse": pruned("SparseDETREncoder", "DecoderAttentionSelector"),
    "sparse + dual": pruned("DualAttentionEncoder", "DecoderAttentionSelector"),
    "focus": pruned("DualAttentionEncoder", "FocusTokenSelector", intervals=INTERVALS),
    "random": pruned("SparseDETREncoder", "RandomSelector"),
    "oracle": pruned("SparseDETREncoder", "OracleSelector", intervals=INTERVALS),
    "salience": dict(
        type="DualAttentionEncoder",
        background_embedding="released",
        selector=dict(
            type="SalienceTokenSelector", intervals=INTERVALS, train_keep_ratio=(0.2, 0.6)
        ),
    ),
}
DETECTORS = ("DeformableDETR", "two-stage DeformableDETR", "DINO")
STEPS = 6


@pytest.mark.parametrize(
    ("detector", "encoder"),
    exhaustive_but(
        [*(("DINO", encoder) for encoder in ENCODERS), *((kind, "focus") for kind in DETECTORS)],
        [(kind, encoder) for kind in DETECTORS for encoder in ENCODERS],
        quick=[("DINO", "dense"), ("DINO", "focus")],
    ),
)
def test_learns_and_is_measured(detector, encoder, tmp_path):
    changes = {} if detector != "DeformableDETR" else dict(with_box_refine=False)
    test_cfg = dict(max_per_img=50, report_tokens=True)
    tokens = [dict(type="DecoderCorrelation"), dict(type="ForegroundRecall", intervals=INTERVALS)]
    run = make_runner(
        tmp_path,
        model=build(detector_config(detector, ENCODERS[encoder], test_cfg=test_cfg, **changes)),
        loader=dict(batch_size=4),
        train_cfg=dict(by_epoch=True, max_epochs=STEPS, val_begin=STEPS + 1),
        default_hooks=dict(logger=dict(type="LoggerHook", interval=1), checkpoint=None),
        val_evaluator=tokens,
    )
    run.train()
    losses = torch.tensor([float(x) for x in run.message_hub.get_scalar("train/loss").data[0]])
    assert len(losses) == STEPS and losses.isfinite().all()
    assert losses[-3:].mean() < losses[:3].mean()
    learned = {name.removeprefix("train/") for name in run.message_hub.log_scalars}
    assert ("loss_foreground" in learned) == (encoder == "focus")
    assert ("loss_salience" in learned) == (encoder == "salience")
    assert ("loss_decoder_attention" in learned) == encoder.startswith("sparse")
    auxiliary = ENCODERS[encoder]["type"] == "SparseDETREncoder"
    assert ("enc0.loss_cls" in learned) == auxiliary

    actual = run.val()
    corr, recall = actual["tokens/corr_all"], actual["tokens/recall"]
    assert 0 <= corr <= 1 + 1e-4 and 0 <= recall <= 1
    if encoder == "none":
        assert corr == recall == 0 and "tokens/corr_top10" not in actual
    elif encoder in ("dense", "hybrid"):
        assert recall == 1 and math.isclose(corr, 1, abs_tol=1e-4)
        assert "tokens/corr_top10" not in actual
    else:
        assert 0 <= actual["tokens/corr_top10"] <= corr + 1e-4
    if encoder == "oracle":
        assert recall > 0.95
