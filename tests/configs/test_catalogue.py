"""The configs' names, the files written from them, and the papers' figures."""

import re
from pathlib import Path

import pytest
import yaml

from config_zoo import (
    BACKBONES,
    DETECTORS,
    generated_files,
    out_of_date,
    read_printed,
    read_trained,
    write,
)
from sparse_encoders.configs import coco_configs, configs_folder

ROOT = Path(__file__).parents[2] / "mmdet_configs"


def test_what_is_committed_is_what_follows_from_the_configs():
    assert out_of_date() == []


@pytest.mark.slow
def test_a_difference_is_detected_and_written(tmp_path):
    configs = tmp_path / "mmdet_configs"
    configs.mkdir()
    for name in ("published.yml", "page_header.md"):
        (configs / name).write_text((ROOT / name).read_text())
    assert set(write(configs)) == set(generated_files(configs))
    changed = configs / "dino" / "metafile.yml"
    changed.write_text("Models: []\n")
    assert out_of_date(configs) == [changed]
    assert write(configs) == [changed] and out_of_date(configs) == []


def test_every_config_has_a_name_of_known_words():
    configs = coco_configs()
    assert {c.path for c in configs} == {
        path.relative_to(configs_folder()) for path in configs_folder().glob("[!_]*/*_coco.py")
    }
    assert {config.detector for config in configs} == set(DETECTORS)
    assert {config.backbone for config in configs} == set(BACKBONES)
    for config in configs:
        bases = re.findall(r"_base_/(\w+)/([\w-]+)\.py", (ROOT / config.path).read_text())
        words = dict(bases)
        assert words["encoders"] == config.encoder.replace("-", "_"), config.path
        assert words.get("backbones", "r50") == config.backbone, config.path
        detector = words.get("models") or words["detectors"]
        assert detector in (f"{config.detector}_r50", f"{config.detector}_{config.epochs}e")


def test_each_detector_has_each_encoder_and_there_are_few():
    """Sparse DETR's two-stage detector and the plain one stand for each other."""
    assert len(list(ROOT.glob("[!_]*/*.py"))) <= 80
    detectors = {"dn-deformable-detr", "dino-4scale", "ddq-detr-4scale", "h-deformable-detr"}
    for encoder in ("dense", "focus", "sparse", "lite-key-aware"):
        named = {config.detector for config in coco_configs() if config.encoder == encoder}
        assert detectors <= named
        assert named & {"sparse-detr", "deformable-detr-refine-twostage"}


def test_figures_name_what_is_there(tmp_path):
    content = yaml.safe_load((ROOT / "published.yml").read_text())
    content["figures"]["lite-detr"]["poster"] = [{"config": "dino", "AP": 50.0}]
    content["trained"][0]["log"] = "docs/none.md"
    file = tmp_path / "published.yml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match="poster must name an existing config"):
        read_printed(file)
    with pytest.raises(ValueError, match=r"none\.md, which does not exist"):
        read_trained(file)


def test_results_are_what_was_trained_here():
    index = yaml.safe_load((ROOT.parent / "model-index.yml").read_text())
    models = {}
    for file in index["Import"]:
        text = (ROOT.parent / file.replace("configs/", "mmdet_configs/")).read_text()
        models.update({model["Name"]: model for model in yaml.safe_load(text)["Models"]})
    trained = {Path(run["config"]).stem for run in read_trained(ROOT / "published.yml")}
    assert models.keys() == {config.path.stem for config in coco_configs()} | trained
    assert {name for name, model in models.items() if "Results" in model} == trained
    focus = models["dino-4scale_r50_focus_8xb2-36e_coco"]["Printed in the paper"]
    assert (focus[0]["AP"], focus[0]["gflops"]) == (50.4, 154)
    cells = models["dino_lite0_lite_coco-folder"]["Results"]
    assert [run["Metrics"]["box AP"] for run in cells] == [53.8]
