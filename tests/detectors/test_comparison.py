"""Strategies in three detectors: each learns a few pictures and is measured by a test run."""

from __future__ import annotations

import math

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

import tiny_detectors
from quick import exhaustive_but
from sparse_encoders.datasets import ShapesSettings, make_shapes_dataset, use_coco_folder
from tiny_detectors import detector_config

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


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    make_shapes_dataset(folder, ShapesSettings(train=4, val=3, size=96, max_objects=4))
    return folder


def make_runner(request, shapes, work_dir, model):
    config = Config.fromfile(
        request.config.rootpath / "mmdet_configs/_base_/datasets/coco_folder.py"
    )
    for stage in ("train", "val", "test"):
        loader = config[f"{stage}_dataloader"]
        loader.update(batch_size=4, num_workers=0, persistent_workers=False)
    settings = dict(
        default_scope="mmdet",
        model=model.to_dict(),
        work_dir=str(work_dir),
        experiment_name=f"run in {work_dir}",  # MMEngine tells runs of one second apart by it
        # an epoch of one step: MMEngine's iteration loop sleeps two seconds between epochs
        train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=STEPS, val_begin=STEPS + 1),
        val_cfg=dict(type="ValLoop"),
        test_cfg=dict(type="TestLoop"),
        optim_wrapper=dict(
            optimizer=dict(type="AdamW", lr=5e-4), clip_grad=dict(max_norm=1.0, norm_type=2)
        ),
        default_hooks=dict(logger=dict(type="LoggerHook", interval=1), checkpoint=None),
        randomness=dict(seed=0),
        log_level="ERROR",
    )
    config.merge_from_dict(settings)
    use_coco_folder(config, shapes, scale=128)
    tokens = [dict(type="DecoderCorrelation"), dict(type="ForegroundRecall", intervals=INTERVALS)]
    config.test_evaluator = [config.test_evaluator, *tokens]
    return Runner.from_cfg(config)


@pytest.mark.parametrize(
    ("detector", "encoder"),
    exhaustive_but(
        [*(("DINO", encoder) for encoder in ENCODERS), *((kind, "focus") for kind in DETECTORS)],
        [(kind, encoder) for kind in DETECTORS for encoder in ENCODERS],
        quick=[("DINO", "dense"), ("DINO", "focus")],
    ),
)
def test_learns_and_is_measured(detector, encoder, request, shapes, tmp_path):
    changes = {} if detector != "DeformableDETR" else dict(with_box_refine=False)
    model = detector_config(detector, ENCODERS[encoder], **changes)
    model.test_cfg = dict(max_per_img=50, report_tokens=True)
    run = make_runner(request, shapes, tmp_path, model)
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

    actual = run.test()
    assert "coco/bbox_mAP" in actual
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
