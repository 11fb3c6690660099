"""The whole way on a tiny set: train, measure, report; again, from what was kept."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import pytest
import torch

import compare as tool
from compared import FOCUS, SMALL, SMALL_OPTIONS
from sparse_encoders.analysis.compare import Comparison, study
from sparse_encoders.analysis.compare.plan import make_plan
from sparse_encoders.analysis.compare.store import Store
from sparse_encoders.datasets import CLASSES
from sparse_encoders.registry import MODELS
from training_here import run_mim_here


def untrained_dense(folder):
    """A checkpoint of the dense encoder."""
    options = dict(SMALL, **{"model.bbox_head.num_classes": len(CLASSES)})
    plan = make_plan(Comparison(FOCUS, folder, ("dense",), options=options))
    model = MODELS.build(plan.configs["dense"].model)
    model.init_weights()  # MMDetection's level embeddings are whatever memory holds before
    meta = dict(dataset_meta=dict(classes=CLASSES))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / "dense.pth")


@pytest.mark.slow
def test_the_whole_way_and_again(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    untrained_dense(tmp_path)
    trained = []

    def train(arguments, log):
        trained.append(arguments[1])
        run_mim_here(arguments, log)

    monkeypatch.setattr(study, "run_mim", train)
    command = [FOCUS, "--encoders", "dense", "focus", "lite-3+1x2", "--keep-ratios", "0.2", "0.5"]
    command += shlex.split("--data shapes --shapes 4 3 --train 1 --checkpoints dense=dense.pth")
    command += shlex.split("--repeats 2 --pictures 1 --no-controls --out out") + SMALL_OPTIONS
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

    def number(settings):
        def make():
            made.append(settings)
            return {"number": len(made)}

        return store.keep("size", "focus 0.3", settings, make)["number"]

    assert number({"a": (1, 2)}) == number({"a": [1, 2]}) == 1 and store.reused == 1
    assert number({"a": [1, 3]}) == 2
    for path in (tmp_path / "results").glob("size_focus_0.3_*.json"):
        path.write_text("{")  # cut off
    assert number({"a": [1, 2]}) == 3
    with pytest.raises(ZeroDivisionError):
        store.keep("size", "other", {}, lambda: {"a": 1 // 0})
    assert not list((tmp_path / "results").glob("size_other*"))
