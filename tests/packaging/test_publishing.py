"""Configs by name: in this process, in a user's config, and where nothing imported the package."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import DATASETS, MODELS, DefaultScope

from sparse_encoders.publishing import config_path, configs_folder, publish, unpublish
from sparse_encoders.zoo.__main__ import main

NAME = "dino/dino_lite0_focus_coco-folder.py"
CHILD = f'_base_ = "sparse_encoders::{NAME}"\nmodel = dict(num_queries=70)\n'


@pytest.fixture(scope="module")
def child(tmp_path_factory):
    path = tmp_path_factory.mktemp("elsewhere") / "child.py"
    path.write_text(CHILD)
    return path


def test_a_user_config_inherits_by_name(child):
    config = Config.fromfile(child)
    assert config.model.num_queries == 70
    assert config.model.encoder.type == "DualAttentionEncoder"


def test_what_is_inherited_by_name_builds(child):
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
    assert Path(config_path(name)) == configs_folder() / NAME


def test_an_unknown_name_is_answered_with_near_ones():
    with pytest.raises(ValueError, match=r"near: .*dino_lite0_focus_coco-folder"):
        config_path("dino_lite0_fokus_coco-folder.py")


@pytest.fixture
def places(tmp_path):
    """A stand-in for MMDetection's folder, and one for site-packages."""
    configs = tmp_path / "mmdet" / ".mim" / "configs"
    configs.mkdir(parents=True)
    site = tmp_path / "site"
    site.mkdir()
    return tmp_path / "mmdet", site


def test_publish_and_back(places):
    mmdet, site = places
    for _ in range(2):
        link, *files = publish(*places)
        assert link == mmdet / ".mim/configs/sparse_encoders" and (link / NAME).is_file()
        assert sorted(p.name for p in files) == sorted(p.name for p in site.iterdir())
    assert len(unpublish(*places)) == 3
    assert not list(site.iterdir()) and not list(link.parent.iterdir())
    assert unpublish(*places) == []


def test_publish_does_not_overwrite(places):
    own = places[0] / ".mim/configs/sparse_encoders"
    own.mkdir()
    with pytest.raises(FileExistsError, match="move it away"):
        publish(*places)
    assert own.is_dir() and not list(places[1].iterdir())


@pytest.mark.slow
def test_published_names_need_no_import(places, child):
    """As in `mim train mmdet child.py`, whose process starts with MMDetection's script."""
    publish(*places)
    code = (
        f"import site, sys; site.addsitedir({str(places[1])!r})\n"
        "assert 'mmengine' not in sys.modules and 'torch' not in sys.modules\n"
        "from mmengine.config import Config\n"
        f"print(Config.fromfile({str(child)!r}).model.num_queries)"
    )
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=child.parent,
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip().endswith("70"), run.stderr


def test_commands(capsys):
    assert main(["path", NAME]) == 0 and capsys.readouterr().out.strip().endswith(NAME)
    assert main(["list"]) == 0 and len(capsys.readouterr().out.splitlines()) > 150
    assert main(["path", "nothing"]) == 1 and "there is no config" in capsys.readouterr().err
