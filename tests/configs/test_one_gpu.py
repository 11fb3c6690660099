"""The settings for one GPU, and the commands of their page, on the CPU and small."""

import glob
import json
import re
import shlex
from pathlib import Path

import pytest
from mmdet.datasets import CocoDataset
from mmengine.config import Config

from sparse_encoders.analysis.mim import read_scalars
from sparse_encoders.datasets import ShapesSettings, make_shapes_dataset
from training_here import run_mim_here

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/one_gpu.md"
CONFIG = ROOT / "mmdet_configs/dino/dino_r50_focus_one-gpu.py"
FRAGMENTS = sorted((ROOT / "mmdet_configs/_base_/one_gpu").glob("*.py"))
SMALL = [
    "model.backbone.init_cfg=None",
    "model.backbone.depth=18",
    "model.neck.in_channels=[128,256,512]",
    "model.encoder.num_layers=2",
    "model.encoder.num_cp=2",
    "model.encoder.layer_cfg.ffn_cfg.feedforward_channels=64",
    "model.decoder.num_layers=2",
    "model.num_queries=30",
    "model.test_cfg.max_per_img=30",
    "train_cfg.max_epochs=1",
    "default_hooks.logger.interval=1",
]
HERE = [
    f"{split}_dataloader.{setting}"
    for split in ("train", "val", "test")
    for setting in ("num_workers=0", "persistent_workers=False")
]


def blocks(language):
    """The page's blocks of a language ('' for commands), in their order."""
    actual = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    return [block for name, block in actual if name == language]


def config_of(text, folder):
    """A config of the page, as written beside ``mmdet_configs``."""
    path = folder / "mine.py"
    path.write_text(text.replace('"mmdet_configs/', f'"{ROOT}/mmdet_configs/'))
    return Config.fromfile(path)


def test_the_config_has_every_measure():
    config = Config.fromfile(CONFIG)
    assert config.optim_wrapper.type == "BFloat16OptimWrapper"
    assert config.optim_wrapper.accumulative_counts == 8
    assert config.optim_wrapper.optimizer.lr == 1e-4 and config.optim_wrapper.clip_grad
    assert [s.type for s in config.param_scheduler] == ["LinearLR", "MultiStepLR"]
    assert config.model.encoder.num_cp == config.model.encoder.num_layers == 6
    assert config.model.encoder.type == "DualAttentionEncoder"
    assert config.model.backbone.with_cp and config.model.backbone.depth == 50
    assert [hook.type for hook in config.custom_hooks] == ["EMAHook", "EarlyStoppingHook"]
    assert config.default_hooks.checkpoint.save_best == "coco/bbox_mAP"
    assert config.default_hooks.checkpoint.interval == 1


def test_the_page_names_every_fragment_and_every_variable_is_used_once():
    assert len(FRAGMENTS) == 8
    assert all(f"one_gpu/{path.name}" in PAGE.read_text() for path in FRAGMENTS)
    names = [set(Config.fromfile(path)) for path in FRAGMENTS]
    assert sum(map(len, names)) == len(set().union(*names))
    standard = set(Config.fromfile(ROOT / "mmdet_configs/_base_/detectors/dino-4scale_12e.py"))
    assert not standard & set().union(*names)  # else MMEngine refuses them as bases


def test_the_pages_config_of_some_measures(tmp_path):
    config = config_of(blocks("python")[1], tmp_path)
    assert config.auto_scale_lr == dict(enable=True, base_batch_size=16)
    assert config.model.encoder.type == "LiteDETREncoder" and "num_cp" not in config.model.encoder
    assert config.optim_wrapper.type == "BFloat16OptimWrapper"
    assert "accumulative_counts" not in config.optim_wrapper
    assert [hook.type for hook in config.custom_hooks] == ["EMAHook"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A drawn set; in ``coco_*.json`` with COCO's 80 classes, of which the first have its boxes."""
    folder = tmp_path_factory.mktemp("data")
    make_shapes_dataset(folder, ShapesSettings(train=6, val=2, size=96))
    names = CocoDataset.METAINFO["classes"]
    for split in ("train", "val"):
        content = json.loads((folder / f"{split}.json").read_text())
        first = [category["id"] for category in content["categories"]]
        others = range(max(first) + 1, max(first) + 1 + len(names) - len(first))
        numbers = zip([*first, *others], names, strict=True)
        content["categories"] = [dict(id=number, name=name) for number, name in numbers]
        (folder / f"coco_{split}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a command of the page on the CPU, in the checkout, with further settings."""

    def run(command, options):
        command = command.replace("--gpus 1", "--gpus 0").replace("work_dirs/", f"{tmp_path}/")
        mim, *words = shlex.split(command.replace("\\\n", " "))
        assert mim == "mim" and words[1] == "mmdet"
        words = [found for word in words for found in glob.glob(word) or [word]]  # as a shell does
        run_mim_here([*words, "--cfg-options", *options, *HERE], tmp_path / "log")
        return (tmp_path / "log").read_text()

    monkeypatch.chdir(ROOT)
    return run


@pytest.mark.slow
def test_the_pages_commands_on_coco(data, tmp_path, run):
    own = [f"{split}_evaluator.ann_file={data}/coco_val.json" for split in ("val", "test")]
    for split in ("train", "val", "test"):
        loader = f"{split}_dataloader.dataset"
        file = "coco_train" if split == "train" else "coco_val"
        own += [f"{loader}.data_root={data}/", f"{loader}.ann_file={file}.json"]
        own += [f"{loader}.data_prefix.img=images/"]
        resize = {"train": "3.transforms.0.0.scales=[(96,96)]"}.get(split, "1.scale=(96,96)")
        own += [f"{loader}.pipeline.{resize}"]
    own.append("train_dataloader.dataset.pipeline.3.transforms.1.0.scales=[(96,96)]")
    own.append("train_dataloader.dataset.pipeline.3.transforms.1.2.scales=[(96,96)]")
    own.append("train_dataloader.dataset.pipeline.3.transforms.1.1.crop_size=(64,96)")
    train, test = re.split(r"\n(?=mim)", blocks("")[0])
    run(train, [*SMALL, *own])
    records = list(read_scalars(tmp_path / "one"))
    losses = [record["loss"] for record in records if "loss" in record]
    assert len(losses) == 3 and all(0 < loss < 1e4 for loss in losses)
    assert list((tmp_path / "one").glob("best_coco_bbox_mAP_epoch_1.pth"))
    assert "coco/bbox_mAP" in run(test, [*SMALL, *own])


@pytest.mark.slow
def test_the_pages_commands_on_ones_own_data(data, tmp_path, run):
    text = blocks("python")[0].replace("DATA", str(data)).replace("(853, 640)", "(96, 96)")
    config = config_of(text, tmp_path)
    assert config.model.bbox_head.num_classes == 5
    command = blocks("")[1].replace("mine.py", f"{tmp_path}/mine.py")
    run(command, SMALL)
    records = list(read_scalars(tmp_path / "mine"))
    assert len([record for record in records if "loss" in record]) == 3
    assert any("coco/bbox_mAP" in record for record in records)
