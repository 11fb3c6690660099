"""The zoo's names, its written files, and its published figures."""

from pathlib import Path

import pytest
import yaml

from sparse_encoders.zoo import DETECTORS, ZooConfig, zoo
from sparse_encoders.zoo.catalogue import out_of_date, read_published, write, written_files

ROOT = Path(__file__).parents[2] / "mmdet_configs"


def test_what_is_committed_is_what_the_zoo_says():
    assert [path.name for path in out_of_date(ROOT)] == []


def test_a_difference_is_found_and_written(tmp_path):
    configs = tmp_path / "mmdet_configs"
    configs.mkdir()
    for name in ("published.yml", "page_header.md"):
        (configs / name).write_text((ROOT / name).read_text())
    (tmp_path / "docs").mkdir()
    assert set(write(configs)) == set(written_files(configs))
    changed = configs / next(zoo()).path
    changed.write_text("model = dict()\n")
    assert out_of_date(configs) == [changed]
    assert write(configs) == [changed] and out_of_date(configs) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dino", "must be named <detector>_<backbone>_<encoder>"),
        ("dyno_r50_focus_8xb2-36e_coco", "detector of config .* must be one of .*dino-4scale"),
        ("dino-4scale_r18_focus_8xb2-36e_coco", "backbone of config .* got 'r18'"),
        ("dino-4scale_r50_focus_16xb2-36e_coco", "must be named 'dino-4scale_r50_focus_8xb2-36e"),
    ],
)
def test_other_names_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        ZooConfig.of_name(name)


def test_names_and_configs_belong_together():
    configs = list(zoo())
    assert len({config.path for config in configs}) == len(configs) > 150
    assert all(ZooConfig.of_name(config.name) == config for config in configs)
    assert {config.detector for config in configs} == set(DETECTORS)


def test_a_published_figure_names_its_config(tmp_path):
    content = yaml.safe_load((ROOT / "published.yml").read_text())
    content["figures"]["lite-detr"]["poster"] = [{"config": "dino", "AP": 50.0}]
    (tmp_path / "published.yml").write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match="poster must name a config of the zoo"):
        read_published(tmp_path / "published.yml")


def test_metafiles_say_whose_figures_they_are():
    index = yaml.safe_load((ROOT.parent / "model-index.yml").read_text())
    models = []
    for file in index["Import"]:
        text = (ROOT.parent / file.replace("configs/", "mmdet_configs/")).read_text()
        assert "not measured with this code" in text.splitlines()[0]
        models += yaml.safe_load(text)["Models"]
    assert {m["Config"] for m in models} == {f"configs/{config.path}" for config in zoo()}
    focus = next(m for m in models if m["Name"] == "dino-4scale_r50_focus_8xb2-36e_coco")
    assert focus["Results"][0]["Metrics"]["box AP"] == 50.4
    assert focus["Published"][0]["Measured here"] is False
    assert focus["Published"][0]["gflops"] == 154
