"""The whole way on a tiny set: train, measure, report; again, from what was kept."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

import compare as tool
from sparse_encoders.analysis.compare import Comparison, study
from sparse_encoders.analysis.compare.plan import make_plan
from sparse_encoders.analysis.compare.store import Store
from sparse_encoders.datasets import CLASSES
from sparse_encoders.registry import MODELS
from training_here import run_mim_here

FOCUS = str(Path(__file__).parents[3] / "mmdet_configs/dino/dino_lite0_focus_shapes.py")
SMALL = {
    "model.num_queries": 20,
    "model.test_cfg.max_per_img": 20,
    "model.backbone.weights": None,
    "train_dataloader.batch_size": 2,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "test_dataloader.num_workers": 0,
    "test_dataloader.persistent_workers": False,
    "default_hooks.logger.interval": 1,
}


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """Untrained weights of the dense encoder, as a checkpoint."""
    folder = tmp_path_factory.mktemp("weights")
    options = dict(SMALL, **{"model.bbox_head.num_classes": len(CLASSES)})
    plan = make_plan(Comparison(FOCUS, folder, ("dense",), options=options))
    torch.manual_seed(0)
    model = MODELS.build(plan.configs["dense"].model)
    model.init_weights()  # MMDetection's level embeddings are whatever memory holds before
    weights = model.state_dict()
    meta = dict(dataset_meta=dict(classes=CLASSES))
    torch.save(dict(state_dict=weights, meta=meta), folder / "dense.pth")
    return folder / "dense.pth"


@pytest.mark.slow
def test_the_whole_way_and_again(tmp_path, dense, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained = []

    def train(arguments, log):
        trained.append(arguments[1])
        run_mim_here(arguments, log)

    monkeypatch.setattr(study, "run_mim", train)
    command = [FOCUS, "--encoders", "dense", "focus", "lite-3+1x2", "--keep-ratios", "0.2", "0.5"]
    command += ["--data", "shapes", "--shapes", "4", "3", "--train", "1", "--out", "out"]
    command += [
        "--checkpoints",
        f"dense={dense}",
        "--repeats",
        "2",
        "--pictures",
        "1",
        "--no-controls",
    ]
    command += ["--cfg-options", *(f"{k}={v}" for k, v in SMALL.items())]
    assert tool.main(command) == 1  # one variant fails, the rest is there
    message = capsys.readouterr()
    assert trained == ["mmdet"] and "round 1: " in message.out
    assert "error: lite-3+1x2: encoder 'lite-3+1x2' has blocks of 3 layers" in message.err
    assert len(list(Path("out/runs").glob("focus_*/seed-0.pth"))) == 1

    record = json.loads((tmp_path / "out/report.json").read_text())
    labels = [row["label"] for row in record["rows"]]
    assert labels == ["dense", "focus 0.5", "focus 0.2", "lite-3+1x2"]
    base, half, fifth, failed = record["rows"]
    assert failed["error"] and failed["runs"] == []
    assert base["weights"]["source"] == "checkpoint" and base["time_share"] == 1.0
    assert half["weights"]["source"] == "trained" and half["weights"]["finite"]
    assert half["weights"]["trained_keep_ratio"] == pytest.approx(0.3)  # the config's
    for row in (base, half, fifth):
        parts = row["complexity"]["parts"]
        assert sum(part["madds"] for part in parts.values()) == row["complexity"]["total"]["madds"]
        assert len(row["rounds"]) == 2 and len(row["rounds"][0]) == 4
        (run,) = row["runs"]
        assert 0 <= run["metrics"]["coco/bbox_mAP"] == row["ap"] <= 1
        assert run["images"] == 3 and len(run["resamples"]) == 100
    # fewer tokens: less work, less of the decoder's attention
    assert fifth["complexity"]["total"]["madds"] < half["complexity"]["total"]["madds"]
    corr = [row["runs"][0]["metrics"]["tokens/corr_all"] for row in (base, half, fifth)]
    assert corr[0] == pytest.approx(1, abs=1e-3) and corr[1] > corr[2]
    assert record["pictures"] and record["data"]["trained"] == 4

    rows = list(csv.DictReader((tmp_path / "out/report.csv").open()))
    assert float(rows[1]["gmadds"]) == pytest.approx(half["complexity"]["total"]["madds"] / 1e9)
    assert rows[3]["status"] == "FAILED" and rows[3]["error"]
    assert "data:image/jpeg;base64," in (tmp_path / "out/report.html").read_text()
    for kind in ("html", "md", "json", "csv"):  # nothing of this machine's folders
        text = (tmp_path / f"out/report.{kind}").read_text()
        assert str(tmp_path / "out") not in text

    assert tool.main(command) == 1
    message = capsys.readouterr().out
    assert trained == ["mmdet"] and "round" not in message
    assert message.count("kept from before") == 2
    again = json.loads((tmp_path / "out/report.json").read_text())
    assert again["rows"] == record["rows"]


def test_a_result_is_made_once_and_again_where_settings_or_file_changed(tmp_path):
    store, made = Store(tmp_path / "results"), []

    def make():
        made.append(len(made))
        return {"number": len(made)}

    assert store.keep("size", "focus 0.3", {"a": (1, 2)}, make) == ({"number": 1}, False)
    assert store.keep("size", "focus 0.3", {"a": [1, 2]}, make) == ({"number": 1}, True)
    assert store.keep("size", "focus 0.3", {"a": [1, 3]}, make) == ({"number": 2}, False)
    (file,) = ((tmp_path / "results").glob("size_focus_0.3_*.json"),)
    for path in file:
        path.write_text("{")  # cut off
    assert store.keep("size", "focus 0.3", {"a": [1, 2]}, make) == ({"number": 3}, False)
    with pytest.raises(ZeroDivisionError):
        store.keep("size", "other", {}, lambda: {"a": 1 // 0})
    assert not list((tmp_path / "results").glob("size_other*"))
