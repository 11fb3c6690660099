"""What is asked for: names, numbers, files; every mistake is found before any work."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import compare as tool
from sparse_encoders.analysis.compare import Comparison, Derived
from sparse_encoders.analysis.compare.configs import for_training, input_size
from sparse_encoders.analysis.compare.plan import make_plan
from sparse_encoders.analysis.variants import VARIANTS, encoder_config
from sparse_encoders.datasets import ShapesSettings, make_shapes_dataset
from sparse_encoders.loading import read_config
from sparse_encoders.registry import MODELS

ROOT = Path(__file__).parents[3]
FOCUS = str(ROOT / "mmdet_configs/dino/dino_lite0_focus_shapes.py")
SMALL = {"model.num_queries": 20, "model.test_cfg.max_per_img": 20, "model.backbone.weights": None}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes_dataset(folder, ShapesSettings(train=2, val=2, size=64))
    return folder


@pytest.fixture
def copied(shapes, tmp_path):
    return Path(shutil.copytree(shapes, tmp_path / "copied"))


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
    assert make_plan(Comparison(FOCUS, tmp_path, ("dense", "focus"))).match is None


def test_a_drawn_keep_ratio_goes_to_every_selector_until_one_is_asked_for():
    base = dict(selector=dict(type="FocusTokenSelector", train_keep_ratio=(0.2, 0.6)))
    for name in ("focus", "sparse", "salience", "random"):
        assert encoder_config(name, base)["selector"]["train_keep_ratio"] == (0.2, 0.6)
        selector = encoder_config(name, base, 0.3)["selector"]
        assert selector["keep_ratio"] == 0.3 and "train_keep_ratio" not in selector


def test_fewer_layers_than_the_config_has():
    with pytest.raises(ValueError, match=r"'dense-3' has 3 dense layers, .* 2 .*: take dense or"):
        encoder_config("dense-3", dict(num_layers=2))
    assert encoder_config("dense-5", {})["num_layers"] == 5  # of six


def test_an_encoders_own_settings_are_kept_and_its_schedule_is_its_name():
    base = read_config(FOCUS)
    base.model.encoder.update(read_config("_base_/encoders/lite_focus_small.py").encoder)
    base.model.encoder.small_low_level_ffn = False
    config = encoder_config("lite-focus", base.model.encoder)
    assert config == base.model.encoder.to_dict() | {
        "attention": "plain", "prune_high_levels": False, "high_levels": 3
    }  # fmt: skip
    assert "selector" not in encoder_config("lite", base.model.encoder)
    assert encoder_config("lite", dict(num_layers=6))["schedule"] == "H3L1-(2+1)x3"
    built = MODELS.build(encoder_config("lite", dict(num_layers=4)))
    assert built.schedule.blocks == 2


def test_mmdetections_own_config_of_six_layers(tmp_path):
    name = "mmdet::deformable_detr/deformable-detr-refine_r50_16xb2-50e_coco.py"
    plan = make_plan(Comparison(name, tmp_path, ("dense", "lite-3+1x2", "sparse")))
    assert plan.detector == "sparse_encoders.DeformableDETR" and plan.data is None
    assert plan.size == (800, 1333)
    assert plan.configs["lite-3+1x2"].model.encoder.schedule == "H3L1-(3+1)x2"
    assert plan.configs["sparse"].model.encoder.selector.keep_ratio == 0.3
    rest = [dict(c.model.to_dict(), encoder=None) for c in plan.configs.values()]
    assert rest[0] == rest[1] == rest[2]


def test_an_encoder_that_does_not_fit_is_a_row_not_an_end(tmp_path, shapes):
    plan = make_plan(Comparison(FOCUS, tmp_path, ("dense", "lite-3+1x2"), data=str(shapes)))
    assert list(plan.configs) == ["dense"]
    assert "blocks of 3 layers, which do not divide the 2 layers" in plan.unfit["lite-3+1x2"]
    assert (plan.data.validated, plan.data.trained) == (2, 2) and plan.size == (160, 160)
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
    with pytest.raises(ValueError, match="--variant takes NAME=ENCODER KEY=VALUE"):
        tool.variants([["focus", "values=updated"]])


def test_the_schedule_is_stretched():
    config = read_config(str(ROOT / "mmdet_configs/dino/dino-4scale_r50_focus_8xb2-12e_coco.py"))
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


def test_a_config_by_name():
    assert read_config("sparse_encoders::dino_lite0_focus_shapes").filename.endswith("_shapes.py")


def run(tmp_path, *arguments, config=FOCUS):
    return tool.main([str(config), "--out", str(tmp_path / "out"), *map(str, arguments)])


def refused(capsys, *words):
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    for word in words:
        assert word in error
    return True


def test_bad_configs(tmp_path, capsys):
    assert run(tmp_path, config="none.py") == 2
    assert refused(capsys, "CONFIG: there is no config file none.py", "mmdet::")
    assert run(tmp_path, config="sparse_encoders::dino/dino_lite0_focos_shapes.py") == 2
    assert refused(capsys, "similar: dino/dino_lite0_focus_shapes")
    broken = tmp_path / "broken.py"
    broken.write_text("model = dict(\n")
    assert run(tmp_path, config=broken) == 2
    assert refused(capsys, "cannot be read")
    assert run(tmp_path, config="mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py") == 2
    assert refused(capsys, "'FasterRCNN'", "sparse_encoders.DNDETR", "DINO and DeformableDETR")


def test_out_is_a_folder(tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert run(tmp_path) == 2
    assert refused(capsys, "--out must be a folder, got the file")


def test_bad_data(tmp_path, copied, capsys):
    assert run(tmp_path, "--data", tmp_path / "nowhere") == 2
    assert refused(capsys, "there is no folder", "or say 'shapes'")
    (copied / "images" / "val_000001.png").unlink()
    assert run(tmp_path, "--data", copied) == 2
    assert refused(capsys, "1 of 2 images", "such as val_000001.png")
    content = json.loads((copied / "val.json").read_text())
    (copied / "val.json").write_text(json.dumps({**content, "annotations": []}))
    assert run(tmp_path, "--data", copied) == 2
    assert refused(capsys, "2 images and 0 boxes")
    (copied / "val.json").write_text(json.dumps({**content, "images": []}))
    assert run(tmp_path, "--data", copied) == 2
    assert refused(capsys, "0 images")
    name = "mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py"
    assert run(tmp_path, "--data", "config", config=name) == 2
    assert refused(capsys, "CONFIG's test annotations", "are not there")


@pytest.mark.slow
def test_bad_checkpoints(tmp_path, shapes, capsys):
    def save(name, encoder, classes):
        options = dict(SMALL, **{"model.bbox_head.num_classes": len(classes)})
        plan = make_plan(Comparison(FOCUS, tmp_path, (encoder,), (0.3,), options=options))
        weights = MODELS.build(plan.configs[encoder].model).state_dict()
        path = tmp_path / f"{name}.pth"
        torch.save(dict(state_dict=weights, meta=dict(dataset_meta=dict(classes=classes))), path)
        return path

    few = [f"{k}={v}" for k, v in SMALL.items()]
    assert run(tmp_path, "--checkpoints", "focus.pth") == 2
    assert refused(capsys, "--checkpoints takes NAME=FILE", "got 'focus.pth'")
    assert run(tmp_path, "--checkpoints", "focus=none.pth") == 2
    assert refused(capsys, "focus=none.pth", "there is no such file", "--train EPOCHS")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 cut off")
    assert run(tmp_path, "--checkpoints", f"focus={tmp_path / 'cut.pth'}") == 2
    assert refused(capsys, "is truncated")
    path = save("sparse", "sparse", ("a", "b"))
    assert run(tmp_path, "--checkpoints", f"focus={path}", "--cfg-options", *few) == 2
    assert refused(
        capsys, "belongs to another model", "it fits the encoder sparse", "name it sparse="
    )
    assert run(
        tmp_path, "--checkpoints", f"sparse={path}", "--data", shapes, "--cfg-options", *few
    ) == 2  # fmt: skip
    assert refused(capsys, "was trained on 2 classes (a, b)", "has 5 classes")
    assert run(tmp_path, "--checkpoints", f"dense={path}") == 2  # 60 queries
    assert refused(capsys, "it fits no encoder of this CONFIG")
