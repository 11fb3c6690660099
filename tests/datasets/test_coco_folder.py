"""One place to name a data set: it reaches every part of a config, and is checked first."""

import json

import pytest
from mmengine.config import Config

from sparse_encoders.datasets import ShapesSettings, make_shapes_dataset
from sparse_encoders.datasets.coco_folder import CocoFolder, apply_coco_folder, apply_scale

CONFIG = "mmdet_configs/dino/dino_lite0_focus_coco-folder.py"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    make_shapes_dataset(folder, ShapesSettings(train=3, val=2, size=64))
    return folder


@pytest.fixture
def config(request):
    return Config.fromfile(request.config.rootpath / CONFIG)


def test_it_reaches_loaders_evaluators_pipelines_and_head(shapes, config):
    config.merge_from_dict({"coco_folder.root": str(shapes), "coco_folder.scale": [96, 128]})
    apply_coco_folder(config)
    for stage, split in (("train", "train"), ("val", "val"), ("test", "val")):
        data = config[f"{stage}_dataloader"].dataset
        assert data.ann_file == str(shapes / f"{split}.json")
        assert data.data_prefix.img == str(shapes / "images")
        assert data.metainfo.classes == ("circle", "square", "triangle", "ring", "cross")
        assert [s.scale for s in data.pipeline if s.type == "Resize"] == [(128, 96)]
    assert config.test_evaluator.ann_file == str(shapes / "val.json")
    assert config.model.bbox_head.num_classes == 5


def test_classes_follow_the_annotations_order(shapes):
    folder = CocoFolder(root=str(shapes), classes=["cross", "circle"])
    assert folder.class_names() == ("circle", "cross")
    assert CocoFolder(root=str(shapes), classes="ring").class_names() == ("ring",)


def test_a_wrapped_data_set_and_nested_transforms(shapes, config):
    inner = config.train_dataloader.dataset
    step = dict(type="RandomChoice", transforms=[[dict(type="Resize", scale=(1, 1))]])
    inner.pipeline.insert(2, step)
    config.train_dataloader.dataset = dict(type="RepeatDataset", times=2, dataset=inner)
    config.merge_from_dict({"coco_folder.root": str(shapes), "coco_folder.scale": 64})
    apply_coco_folder(config)
    inner = config.train_dataloader.dataset.dataset
    assert inner.ann_file == str(shapes / "train.json")
    assert inner.pipeline[2]["transforms"][0][0]["scale"] == (64, 64)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "coco_folder.root is not set"),
        ({"root": "x", "trian": "a.json"}, "must be a dict of"),
        ({"root": "nowhere"}, "coco_folder.train: there is no annotation file"),
        ({"val": "missing.json"}, "coco_folder.val: there is no annotation file"),
        ({"classes": ["circle", "dog"]}, r"\['dog'\] are not among the categories"),
        ({"images": "pictures"}, "coco_folder.images: there is no folder"),
        ({"val_images": "pictures"}, "coco_folder.val_images: there is no folder"),
        ({"scale": 7}, "at least 32 pixels, got 7"),
        ({"scale": (64, 64, 64)}, "one or two whole numbers"),
        ({"train": "broken.json"}, "no COCO annotation file"),
        ({"train": "foreign.json"}, "no COCO annotation file"),
        ({"train": "empty.json"}, "lists 0 images"),
        ({"train": "twice.json"}, "a category name twice"),
        ({"val": "other.json"}, "must list the same categories"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_built(shapes, config, settings, message):
    good = json.loads((shapes / "train.json").read_text())
    (shapes / "broken.json").write_text('{"images": [')
    (shapes / "foreign.json").write_text('{"pictures": []}')
    (shapes / "empty.json").write_text(json.dumps({**good, "images": []}))
    (shapes / "twice.json").write_text(json.dumps({**good, "categories": good["categories"] * 2}))
    (shapes / "other.json").write_text(json.dumps({**good, "categories": good["categories"][::-1]}))
    config.coco_folder = {"root": str(shapes), **settings} if settings else {}
    with pytest.raises(ValueError, match=message):
        apply_coco_folder(config)


def test_without_a_folder(config):
    config.pop("coco_folder")
    with pytest.raises(ValueError, match="must be a dict of"):
        apply_coco_folder(config)


def test_the_scale_alone_needs_no_folder(config):
    config.merge_from_dict({"coco_folder.root": "none", "coco_folder.scale": [96, 128]})
    apply_scale(config)
    steps = config.test_dataloader.dataset.pipeline
    assert [s.scale for s in steps if s.type == "Resize"] == [(128, 96)]
