"""Configs by name: in this process, and in a user's config."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import DATASETS, MODELS, DefaultScope

from sparse_encoders.configs import config_path, configs_folder
from sparse_encoders.loading import find_config

NAME = "dino/dino_lite0_focus_coco-folder.py"


@pytest.fixture(scope="module")
def child(tmp_path_factory):
    path = tmp_path_factory.mktemp("elsewhere") / "child.py"
    path.write_text(f'_base_ = "sparse_encoders::{NAME}"\nmodel = dict(num_queries=70)\n')
    return path


def test_a_user_config_inherits_by_name(child):
    model = Config.fromfile(child).model
    assert (model.num_queries, model.encoder.type) == (70, "DualAttentionEncoder")


@pytest.mark.slow
def test_what_a_user_config_inherits_by_name_builds(child):
    """MMEngine looks it up in our scope first, which falls back to MMDetection's."""
    config = Config.fromfile(child)
    assert config.model["_scope_"] == "sparse_encoders"
    with DefaultScope.overwrite_default_scope("mmdet"):
        config.model.backbone.weights = None
        assert type(MODELS.build(config.model)).__module__ == "sparse_encoders.detectors.dino"
        dataset = config.train_dataloader.dataset
        dataset.update(lazy_init=True, ann_file="a.json")
        assert type(DATASETS.build(dataset)).__name__ == "CocoDataset"


def test_the_hub_finds_a_config_and_its_metafile():
    config = get_config("sparse_encoders::dino/dino-4scale_r50_sparse-k10_8xb2-36e_coco.py")
    assert config.model.encoder.selector.keep_ratio == 0.1
    assert config.train_cfg.max_epochs == 36


@pytest.mark.parametrize(
    "name", [NAME, NAME.removesuffix(".py"), Path(NAME).stem, f"sparse_encoders::{NAME}"]
)
def test_paths_by_name(name):
    assert Path(config_path(name)) == find_config(name) == configs_folder() / NAME


def test_files_and_mmdetections_configs_are_accepted(child):
    assert find_config(child) == child
    assert find_config("mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py").is_file()
    with pytest.raises(ValueError, match=r"there is no config file .*nothing\.py"):
        find_config("mmdet::dino/nothing.py")
    with pytest.raises(ValueError, match=r"similar: .*dino_lite0_focus_coco-folder"):
        config_path("dino_lite0_fokus_coco-folder.py")
