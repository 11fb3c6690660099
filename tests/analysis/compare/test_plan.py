"""What is asked for: names, numbers, files; every mistake is found before any work."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import compare as tool
from compared import FOCUS, SMALL, SMALL_OPTIONS
from sparse_encoders.analysis.compare import Comparison, Derived
from sparse_encoders.analysis.compare.configs import for_training, input_size
from sparse_encoders.analysis.compare.plan import make_plan
from sparse_encoders.analysis.variants import VARIANTS, encoder_config
from sparse_encoders.datasets import ShapesSettings
from sparse_encoders.loading import read_config
from sparse_encoders.registry import MODELS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(encoders=("dense", "fuzzy")), r"--encoders must be some of dense, .*got fuzzy"),
        (dict(encoders=()), "--encoders must be some of .*got none"),
        (dict(encoders=("dense", "dense")), "names one twice"),
        (dict(keep_ratios=(0.3, 1.2)), r"must lie in \(0, 1\], got 1\.2"),
        (dict(keep_ratios=(0.0,)), r"must lie in \(0, 1\], got 0\.0"),
        (dict(keep_ratios=()), r"must lie in \(0, 1\], got none"),
        (dict(train_ratio=-1.0), r"--train-ratio\) must lie in \(0, 1\], got -1\.0"),
        (dict(epochs=0, data="shapes"), "--train must be at least 1, got 0"),
        (dict(epochs=1), "--train needs --data"),
        (dict(repeats=0), "--repeats must be at least 1, got 0"),
        (dict(size=(800, 16)), "--size must be at least 32, got 16"),
        (dict(checkpoints={"focsu": Path("a")}), "--checkpoints names focsu, not among"),
        (dict(encoders=("dense", "dense-matched")), "dense-matched takes .*such as focus"),
        (dict(baseline="random"), "--baseline must be one of --encoders"),
        (dict(derived={"focus": Derived("focus")}), "--variant must be NEW=ENCODER, a name of its"),
        (dict(derived={"mine": Derived("fokus")}), "got mine=fokus"),
        (dict(seeds=2), "--seeds and --join are of trainings: they need --train"),
        (dict(seeds=0), "--seeds must be at least 1, got 0"),
        (dict(device="gpu"), "--device must be 'cpu' or such as 'cuda:0', got 'gpu'"),
    ],
)
def test_settings_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        Comparison(FOCUS, Path("out"), **change)


def test_rows_and_baseline():
    settings = Comparison(FOCUS, Path("out"), ("lite", "focus", "dense"), (0.1, 0.5, 0.1))
    labels = [variant.label for variant in settings.variants()]
    assert labels == ["lite", "focus 0.5", "focus 0.1", "dense"]
    assert settings.reference.label == "dense"
    assert Comparison(FOCUS, Path("out"), ("focus", "lite")).reference.label == "focus 0.5"


UNFIT = ("lite-3+1x2", "lite-6+1x1", "dense-2", "dense-3", "dense-4", "dense-5")  # of two layers


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in UNFIT])
def test_every_encoder_fits_into_one_config(name):
    base = read_config(FOCUS).model.encoder
    config = encoder_config(name, base, 0.2)
    layers = {"hybrid": None, "none": None, "dense-1": 1}.get(name, 2)
    assert config.get("num_layers") == layers and config["layer_cfg"] == base.layer_cfg
    selector = config.get("selector")
    if selector and selector["type"] in ("FocusTokenSelector", "OracleSelector"):
        assert selector["intervals"] == base.selector.intervals  # of small pictures
    if selector:
        assert selector["keep_ratio"] == 0.2
    if config["type"] == "DualAttentionEncoder":
        assert config["num_object_tokens"] == 60  # as in the config
    if name in ("lite", "lite-focus", "lite-h2l2", "lite-key-aware"):
        assert config["blocks"] == 1 and "schedule" not in config


@pytest.mark.slow
def test_a_dense_encoder_that_costs_the_same(tmp_path):
    names, options = ("dense", "dense-matched", "focus", "dense-1"), {"model.encoder.num_layers": 6}
    plan = make_plan(Comparison(FOCUS, tmp_path, names, train_ratio=0.2, options=options))
    assert plan.match.encoder == "focus" and plan.match.keep_ratio == 0.2
    layers = plan.configs["dense-matched"].model.encoder.num_layers
    assert layers == plan.match.layers and 1 < layers < 4  # its FFN is smaller on six layers
    assert plan.configs["dense-matched"].model.encoder.type == "DenseEncoder"
    assert plan.configs["dense-1"].model.encoder.num_layers == 1


def test_layers_are_counted_with_the_classes_of_the_data(tmp_path):
    drawn = dict(data="shapes", shapes=ShapesSettings(train=1, val=1))
    asked = Comparison(FOCUS, tmp_path, ("dense", "dense-matched", "focus"), **drawn)
    matches = [
        make_plan(replace(asked, options={"model.bbox_head.num_classes": classes})).match
        for classes in (5, 80)
    ]
    assert matches[0] == matches[1]


def test_encoders_from_a_config(tmp_path):
    base = dict(selector=dict(type="FocusTokenSelector", train_keep_ratio=(0.2, 0.6)))
    for name in ("focus", "sparse", "salience", "random"):  # drawn until one ratio is asked for
        assert encoder_config(name, base)["selector"]["train_keep_ratio"] == (0.2, 0.6)
        selector = encoder_config(name, base, 0.3)["selector"]
        assert selector["keep_ratio"] == 0.3 and "train_keep_ratio" not in selector
    with pytest.raises(ValueError, match=r"'dense-3' has 3 dense layers, .* 2 .*: take dense or"):
        encoder_config("dense-3", dict(num_layers=2))
    assert encoder_config("dense-5", {})["num_layers"] == 5  # of six
    # an encoder's own settings are kept, and its schedule is its name
    small = read_config(FOCUS).model.encoder
    small.update(read_config("_base_/encoders/lite_focus_small.py").encoder)
    small.small_low_level_ffn = False
    of_the_name = {"attention": "plain", "prune_high_levels": False, "high_levels": 3}
    assert encoder_config("lite-focus", small) == small.to_dict() | of_the_name
    assert "selector" not in encoder_config("lite", small)
    assert encoder_config("lite", dict(num_layers=6))["schedule"] == "H3L1-(2+1)x3"
    assert MODELS.build(encoder_config("lite", dict(num_layers=4))).schedule.blocks == 2


def test_mmdetections_own_config_of_six_layers(tmp_path):
    name = "mmdet::deformable_detr/deformable-detr-refine_r50_16xb2-50e_coco.py"
    plan = make_plan(Comparison(name, tmp_path, ("dense", "lite-3+1x2", "sparse")))
    assert plan.detector == "sparse_encoders.DeformableDETR" and plan.data is None
    assert plan.size == (800, 1333) and plan.match is None
    assert plan.configs["lite-3+1x2"].model.encoder.schedule == "H3L1-(3+1)x2"
    assert plan.configs["sparse"].model.encoder.selector.keep_ratio == 0.3
    rest = [dict(c.model.to_dict(), encoder=None) for c in plan.configs.values()]
    assert rest[0] == rest[1] == rest[2]


def test_an_encoder_that_does_not_fit_is_a_row_not_an_end(tmp_path, shapes):
    plan = make_plan(Comparison(FOCUS, tmp_path, ("dense", "lite-3+1x2"), data=str(shapes)))
    assert list(plan.configs) == ["dense"]
    assert "blocks of 3 layers, which do not divide the 2 layers" in plan.unfit["lite-3+1x2"]
    assert (plan.data.validated, plan.data.trained) == (2, 4) and plan.size == (160, 160)
    assert "annotations" not in plan.data.as_record()


def test_controls_belong_to_every_comparison_of_accuracy(tmp_path, shapes):
    settings = Comparison(FOCUS, tmp_path, ("dense", "focus"), (0.3,), data=str(shapes), epochs=1)
    assert settings.names == ("dense", "focus", "none", "dense-1", "random")
    assert list(make_plan(settings).configs) == list(settings.names)
    assert replace(settings, controls=False).names == ("dense", "focus")
    assert replace(settings, epochs=None).names == ("dense", "focus")
    one_layer = replace(settings, options={"model.encoder.num_layers": 1})
    plan = make_plan(one_layer)  # which cannot have fewer
    assert list(plan.configs) == ["dense", "focus", "none", "random"] and not plan.unfit


@pytest.mark.slow
def test_a_variant_is_an_encoder_with_other_settings(tmp_path):
    words = ["mine=focus", "values=updated", "selector.modulation_place=after_norm"]
    derived = tool.variants([words, ["half=focus", "selector.keep_ratio=0.5"]])
    assert derived["half"].options == {"selector.keep_ratio": 0.5}
    settings = Comparison(FOCUS, tmp_path, ("dense", "focus"), (0.3,), derived=derived)
    labels = [variant.label for variant in settings.variants()]
    assert labels == ["dense", "focus 0.3", "mine 0.3", "half 0.3"]
    configs = make_plan(settings).configs
    mine, focus = configs["mine"].model.encoder, configs["focus"].model.encoder
    assert (mine["values"], mine.selector.modulation_place) == ("updated", "after_norm")
    mine["values"] = focus["values"]
    mine.selector.pop("modulation_place")
    assert mine == focus and configs["half"].model.encoder.selector.keep_ratio == 0.5
    wrong = tool.variants([["mine=focus", "values=upgraded"]])
    with pytest.raises(ValueError, match=r"--variant mine: .*values must be one of"):
        make_plan(replace(settings, derived=wrong))


def test_the_schedule_is_stretched():
    config = read_config("sparse_encoders::dino/dino-4scale_r50_focus_8xb2-12e_coco")
    trained = for_training(config, 6, 3)
    (scheduler,) = trained.param_scheduler
    assert (scheduler.end, scheduler.milestones) == (6, [6])
    assert trained.train_cfg.max_epochs == 6 and trained.train_cfg.val_begin == 7
    assert trained.custom_hooks[-1].type == "SeedByStepHook"
    assert not trained.train_dataloader.persistent_workers
    assert trained.randomness.seed == 3 and config.train_cfg.max_epochs == 12
    config.train_cfg = dict(type="IterBasedTrainLoop", max_iters=10)
    with pytest.raises(ValueError, match=r"CONFIG has no train_cfg\.max_epochs"):
        for_training(config, 6, 3)
    config.test_dataloader.dataset.pipeline = []
    config.test_pipeline = []
    with pytest.raises(ValueError, match="say --size HEIGHT WIDTH"):
        input_size(config)


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Runs the command, which must refuse with these words."""
    monkeypatch.chdir(tmp_path)

    def check(config, *options, words):
        assert tool.main([config, "--out", "out", *map(str, options)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert [word for word in words if word not in error] == []

    return check


DINO = "mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py"


@pytest.mark.parametrize(
    ("config", "options", "words"),
    [
        ("none.py", [], ["CONFIG: there is no config file none.py", "mmdet::"]),
        (
            "sparse_encoders::dino/dino_lite0_focos_shapes.py",
            [],
            ["similar: dino/dino_lite0_focus"],
        ),
        ("broken.py", [], ["cannot be read"]),
        (
            "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
            [],
            ["'FasterRCNN'", "sparse_encoders.DNDETR", "DINO and DeformableDETR"],
        ),
        (FOCUS, ["--out", "file"], ["--out must be a folder, got the file file"]),
        (FOCUS, ["--data", "nowhere"], ["there is no folder", "or say 'shapes'"]),
        (DINO, ["--data", "config"], ["CONFIG's test annotations", "are not there"]),
        (FOCUS, ["--checkpoints", "a.pth"], ["--checkpoints takes NAME=FILE", "got 'a.pth'"]),
        (
            FOCUS,
            ["--checkpoints", "focus=none.pth"],
            ["focus=none.pth", "there is no such file", "--train EPOCHS"],
        ),
        (FOCUS, ["--checkpoints", "focus=cut.pth"], ["is truncated"]),
        (FOCUS, ["--variant", "a", "values=b"], ["--variant takes NAME=ENCODER KEY=VALUE"]),
    ],
)
def test_bad_input(tmp_path, refused, config, options, words):
    (tmp_path / "broken.py").write_text("model = dict(\n")
    (tmp_path / "file").write_text("")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 cut off")
    refused(config, *options, words=words)


def test_bad_data(tmp_path, shapes, refused):
    copied = Path(shutil.copytree(shapes, tmp_path / "copied"))
    content = json.loads((copied / "val.json").read_text())
    (copied / "images" / "val_000001.png").unlink()
    refused(FOCUS, "--data", copied, words=["1 of 2 images", "such as val_000001.png"])
    for empty, words in (("annotations", "2 images and 0 boxes"), ("images", "0 images")):
        (copied / "val.json").write_text(json.dumps({**content, empty: []}))
        refused(FOCUS, "--data", copied, words=[words])


@pytest.mark.slow
def test_bad_checkpoints(tmp_path, shapes, refused):
    classes = ("a", "b")
    options = dict(SMALL, **{"model.bbox_head.num_classes": 2})
    plan = make_plan(Comparison(FOCUS, tmp_path, ("sparse",), (0.3,), options=options))
    weights = MODELS.build(plan.configs["sparse"].model).state_dict()
    file = dict(state_dict=weights, meta=dict(dataset_meta=dict(classes=classes)))
    torch.save(file, tmp_path / "a.pth")
    words = ["belongs to another model", "it fits the encoder sparse", "name it sparse="]
    refused(FOCUS, "--checkpoints", "focus=a.pth", *SMALL_OPTIONS, words=words)
    words = ["was trained on 2 classes (a, b)", "has 5 classes"]
    refused(FOCUS, "--checkpoints", "sparse=a.pth", "--data", shapes, *SMALL_OPTIONS, words=words)
    words = ["it fits no encoder of this CONFIG"]  # 60 queries
    refused(FOCUS, "--checkpoints", "dense=a.pth", words=words)
