"""One place to name a data set: it reaches every part of a config, and is checked first."""

import json
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import FlexibleRunner

from sparse_encoders.datasets import ShapesSettings, make_shapes_dataset
from sparse_encoders.datasets.coco_folder import CocoFolder, resize_images, use_coco_folder

ROOT = Path(__file__).parents[2]
CONFIG = "mmdet_configs/dino/dino_lite0_focus_coco-folder.py"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    make_shapes_dataset(folder, ShapesSettings(train=3, val=2, size=64))
    return folder


@pytest.fixture
def config():
    return Config.fromfile(ROOT / CONFIG)


def test_it_reaches_loaders_evaluators_pipelines_and_head(shapes, config):
    use_coco_folder(config, shapes, scale=[96, 128])
    for stage, split in (("train", "train"), ("val", "val"), ("test", "val")):
        data = config[f"{stage}_dataloader"].dataset
        assert data.ann_file == str(shapes / f"{split}.json")
        assert data.data_prefix.img == str(shapes / "images")
        assert data.metainfo.classes == ("circle", "square", "triangle", "ring", "cross")
        assert [s.scale for s in data.pipeline if s.type == "Resize"] == [(128, 96)]
    assert config.test_evaluator.ann_file == str(shapes / "val.json")
    assert config.model.bbox_head.num_classes == 5
    # in the order of the annotations
    for classes, names in ((["cross", "circle"], ("circle", "cross")), ("ring", ("ring",))):
        assert CocoFolder(root=str(shapes), classes=classes).class_names() == names


def test_a_wrapped_data_set_and_nested_transforms(shapes, config):
    inner = config.train_dataloader.dataset
    step = dict(type="RandomChoice", transforms=[[dict(type="Resize", scale=(1, 1))]])
    inner.pipeline.insert(2, step)
    config.train_dataloader.dataset = dict(type="RepeatDataset", times=2, dataset=inner)
    use_coco_folder(config, shapes, scale=64)
    inner = config.train_dataloader.dataset.dataset
    assert inner.ann_file == str(shapes / "train.json")
    assert inner.pipeline[2]["transforms"][0][0]["scale"] == (64, 64)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (7, "must be a path or a dict of"),
        ({"root": "x", "trian": "a.json"}, "must be a path or a dict of"),
        ({"root": "nowhere"}, "train: there is no annotation file"),
        ({"val": "missing.json"}, "val: there is no annotation file"),
        ({"classes": ["circle", "dog"]}, r"classes: \['dog'\] are not among the categories"),
        ({"images": "pictures"}, "images: there is no folder"),
        ({"val_images": "pictures"}, "val_images: there is no folder"),
        ({"train": "broken.json"}, "not a COCO annotation file"),
        ({"train": "foreign.json"}, "not a COCO annotation file"),
        ({"train": "empty.json"}, "lists 0 images"),
        ({"train": "twice.json"}, "a category name twice"),
        ({"val": "other.json"}, "must list the same categories"),
    ],
)
def test_errors_are_raised_before_anything_is_built(shapes, config, settings, message):
    good = json.loads((shapes / "train.json").read_text())
    for name, content in {
        "foreign": {"pictures": []},
        "empty": good | {"images": []},
        "twice": good | {"categories": good["categories"] * 2},
        "other": good | {"categories": good["categories"][::-1]},
    }.items():
        (shapes / f"{name}.json").write_text(json.dumps(content))
    (shapes / "broken.json").write_text('{"images": [')
    folder = {"root": str(shapes), **settings} if isinstance(settings, dict) else settings
    with pytest.raises(ValueError, match=message):
        use_coco_folder(config, folder)


def test_scales_are_checked(config):
    for scale, message in ((7, "at least 32 pixels, got 7"), ((64, 64, 64), "one or two integers")):
        with pytest.raises(ValueError, match=message):
            resize_images(config, scale)


def test_scales_that_are_drawn_keep_their_proportion_to_the_tests_scale():
    config = Config.fromfile(ROOT / "mmdet_configs/dino/dino_r50_focus_one-gpu.py")
    resize_images(config, (667, 400))
    first, second = config.train_dataloader.dataset.pipeline[3]["transforms"]
    # half of MMDetection's (480, 1333) to (800, 1333), (400, 4200) to (600, 4200) and (384, 600)
    assert first[0]["scales"][0] == (240, 667) and first[0]["scales"][-1] == (400, 667)
    assert [min(pair) for pair in second[0]["scales"]] == [200, 250, 300]
    assert second[1]["crop_size"] == (192, 300) and second[2]["scales"] == first[0]["scales"]
    assert config.test_dataloader.dataset.pipeline[1]["scale"] == (667, 400)
    steps = [
        dict(type="RandomResize", scale=(2666, 1600), ratio_range=(0.1, 2.0)),
        dict(type="RandomResize", scale=[(667, 400), (1333, 800)]),
        dict(type="RandomCrop", crop_type="relative", crop_size=(0.5, 0.5)),
        dict(type="RandomCrop", crop_size=(800, 800)),
    ]
    config.train_dataloader.dataset.pipeline = steps
    resize_images(config, (1334, 800))
    steps = config.train_dataloader.dataset.pipeline
    assert steps[0]["scale"] == (5332, 3200) and steps[1]["scale"] == [(1334, 800), (2666, 1600)]
    assert steps[2]["crop_size"] == (0.5, 0.5) and steps[3]["crop_size"] == (1600, 1600)


OWN = f"""
_base_ = {str(ROOT / CONFIG)!r}

from sparse_encoders.datasets import use_coco_folder

use_coco_folder(_base_, dict(root=DATA, classes=("ring", "circle")), scale=(96, 64))
runner_type = "FlexibleRunner"
strategy = dict(type="SingleDeviceStrategy")
model = dict(num_queries=20, test_cfg=dict(max_per_img=20), backbone=dict(weights=None))
train_dataloader = dict(num_workers=0, persistent_workers=False)
train_cfg = dict(max_epochs=1, val_begin=9)
"""


def own_config(shapes, folder):
    """As `mim train mmdet own.py --cfg-options model.num_queries=10` reads it."""
    path = folder / "own.py"
    path.write_text(OWN.replace("DATA", repr(str(shapes))))
    config = Config.fromfile(path)
    config.merge_from_dict({"model.num_queries": 10, "model.test_cfg.max_per_img": 10})
    config.work_dir = str(folder / "work")
    return config


def test_a_config_of_ones_own(shapes, tmp_path):
    config = own_config(shapes, tmp_path)
    assert config.train_dataloader.dataset.metainfo.classes == ("circle", "ring")
    assert config.model.bbox_head.num_classes == 2 and config.model.num_queries == 10
    config.dump(tmp_path / "dumped.py")
    again = Config.fromfile(tmp_path / "dumped.py")
    assert again.test_dataloader.dataset == config.test_dataloader.dataset


@pytest.mark.slow
def test_any_runner_trains_on_it(shapes, tmp_path):
    runner = RUNNERS.build(own_config(shapes, tmp_path))
    assert type(runner) is FlexibleRunner
    runner.train()
    assert runner.model.bbox_head.num_classes == 2 and runner.iter == 1
