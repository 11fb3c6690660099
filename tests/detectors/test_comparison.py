"""Strategies in three detectors: each learns a few pictures and is measured by a test run."""

from __future__ import annotations

import math

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner

from quick import exhaustive_but
from sparse_encoders.datasets import CLASSES, ShapesSettings, make_shapes_dataset
from tiny_detectors import detector_config

INTERVALS = ((-1, 16), (16, 32), (32, 64), (64, 1e4))
ENCODERS = {
    "dense": dict(type="DenseEncoder"),
    "sparse": dict(type="SparseDETREncoder", selector=dict(keep_ratio=0.3)),
    "sparse + dual": dict(
        type="DualAttentionEncoder",
        selector=dict(type="DecoderAttentionSelector", keep_ratio=0.3),
    ),
    "focus": dict(
        type="DualAttentionEncoder",
        selector=dict(type="FocusTokenSelector", keep_ratio=0.3, intervals=INTERVALS),
    ),
    "random": dict(type="SparseDETREncoder", selector=dict(type="RandomSelector", keep_ratio=0.3)),
    "oracle": dict(
        type="SparseDETREncoder",
        selector=dict(type="OracleSelector", keep_ratio=0.3, intervals=INTERVALS),
    ),
}
ENCODERS["salience"] = dict(
    type="DualAttentionEncoder",
    background_embedding="released",
    selector=dict(type="SalienceTokenSelector", intervals=INTERVALS, train_keep_ratio=(0.2, 0.6)),
)
ENCODERS["hybrid"] = dict(type="HybridEncoder", norm_cfg=dict(type="GN", num_groups=32))
ENCODERS["none"] = dict(type="NoEncoder")
DETECTORS = ("DeformableDETR", "two-stage DeformableDETR", "DINO")
STEPS = 6


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    make_shapes_dataset(folder, ShapesSettings(train=4, val=3, size=96, max_objects=4))
    return folder


def loader(folder, split, pipeline):
    return dict(
        batch_size=4,
        num_workers=0,
        sampler=dict(type="DefaultSampler", shuffle=False),
        dataset=dict(
            type="CocoDataset",
            data_root=str(folder),
            ann_file=f"{split}.json",
            data_prefix=dict(img="images/"),
            metainfo=dict(classes=CLASSES),
            test_mode=split == "val",
            pipeline=pipeline,
        ),
    )


def runner(folder, work_dir, model):
    load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True)]
    # as in MMDetection: annotations after resizing, in pixels of the original image
    test = [load[0], dict(type="Resize", scale=(128, 128), keep_ratio=True), load[1]]
    keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    val = loader(folder, "val", [*test, dict(type="PackDetInputs", meta_keys=keys)])
    metrics = [
        dict(type="CocoMetric", ann_file=f"{folder}/val.json", metric="bbox"),
        dict(type="DecoderCorrelation"),
        dict(type="ForegroundRecall", intervals=INTERVALS),
    ]
    train = loader(folder, "train", [*load, dict(type="PackDetInputs")])
    # one epoch: MMEngine's iteration loop sleeps two seconds between epochs
    train["dataset"] = dict(type="RepeatDataset", times=STEPS, dataset=train["dataset"])
    config = dict(
        default_scope="mmdet",
        model=model,
        work_dir=str(work_dir),
        experiment_name=f"run in {work_dir}",  # MMEngine tells runs of one second apart by it
        train_dataloader=train,
        train_cfg=dict(type="IterBasedTrainLoop", max_iters=STEPS, val_interval=10**6),
        optim_wrapper=dict(
            optimizer=dict(type="AdamW", lr=5e-4), clip_grad=dict(max_norm=1.0, norm_type=2)
        ),
        test_dataloader=val,
        test_cfg=dict(type="TestLoop"),
        test_evaluator=metrics,
        default_hooks=dict(logger=dict(type="LoggerHook", interval=1), checkpoint=None),
        randomness=dict(seed=0),
        log_level="ERROR",
    )
    return Runner.from_cfg(Config(config))


def describe(detector, encoder):
    changes = {} if detector != "DeformableDETR" else dict(with_box_refine=False)
    model = detector_config(detector, ENCODERS[encoder], **changes)
    model.bbox_head.num_classes = len(CLASSES)
    model.test_cfg = ConfigDict(max_per_img=50, report_tokens=True)
    return model


@pytest.mark.parametrize(
    ("detector", "encoder"),
    exhaustive_but(
        [*(("DINO", encoder) for encoder in ENCODERS), *((kind, "focus") for kind in DETECTORS)],
        [(kind, encoder) for kind in DETECTORS for encoder in ENCODERS],
        quick=[("DINO", "dense"), ("DINO", "focus")],
    ),
)
def test_learns_and_is_measured(detector, encoder, shapes, tmp_path):
    run = runner(shapes, tmp_path, describe(detector, encoder))
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
