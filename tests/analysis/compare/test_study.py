"""Several runs of a variant: paired, kept, carried to another machine, joined, drawn again."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

import compare as tool
from compared import FOCUS, MACHINE, SMALL_OPTIONS
from compared import accuracy as accuracy_of
from sparse_encoders.analysis.compare import study
from sparse_encoders.analysis.compare.facts import literal_settings, training_facts
from sparse_encoders.analysis.report import read_report
from sparse_encoders.analysis.report.__main__ import main as redraw
from sparse_encoders.analysis.report.runs import Run, first_difference, ratio_key
from sparse_encoders.registry import MODELS
from training_here import run_mim_here

QUICK = shlex.split("--size 64 64 --repeats 1 --warmup 0 --pictures 0 --no-controls")


def command(out, shapes, *more):
    words = [FOCUS, "--out", out, "--data", shapes, *QUICK, *more, *SMALL_OPTIONS]
    return [str(word) for word in words]


def run(*words):
    status = tool.main(command(*words))
    return status, json.loads((Path(words[0]) / "report.json").read_text()) if status < 2 else None


def accuracy(out):
    """What was measured, by variant and seed, without when."""
    files = {(p.parent.name, p.stem): json.loads(p.read_text()) for p in out.rglob("seed-*.json")}
    return {key: run["accuracy"] for key, run in files.items()}


@pytest.fixture
def trained(monkeypatch):
    """What was asked to be trained; in place of training, weights that depend on the seed."""
    asked = []

    def train(words, log):
        folder = Path(words[words.index("--work-dir") + 1])
        config = Config.fromfile(folder / "config.py")
        asked.append((folder.parent.name.split("_")[0], config.randomness.seed))
        if asked[-1] in broken:
            raise ValueError("out of memory")
        torch.manual_seed(config.randomness.seed)
        init_default_scope("mmdet")
        model = MODELS.build(config.model)
        torch.nn.init.uniform_(model.decoder.layers[0].norms[0].weight)
        meta = dict(epoch=2, iter=4, cfg=config.pretty_text)
        meta["dataset_meta"] = dict(classes=config.train_dataloader.dataset.metainfo.classes)
        torch.save(dict(meta=meta, state_dict=model.state_dict()), folder / "epoch_2.pth")
        (folder / "last_checkpoint").write_text(str(folder / "epoch_2.pth"))

    class Judge:
        """AP that follows from the weights."""

        def __init__(self, plan):
            self.data = plan.data

        def measure(self, model):
            kept = sum(getattr(getattr(model.encoder, "selector", None), "per_layer", [1]))
            ap = (float(model.decoder.layers[0].norms[0].weight.sum()) + kept) % 0.1 + 0.4
            sets = [ap + 0.001 * i for i in range(100)]
            return {"metrics": {"coco/bbox_mAP": ap}, "resamples": sets, "images": 2}

    broken: set = set()
    monkeypatch.setattr(study, "run_mim", train)
    monkeypatch.setattr(study, "Judge", Judge)
    return asked, broken


@pytest.mark.slow
def test_runs_are_kept_carried_and_joined(tmp_path, shapes, trained, capsys):
    asked, _ = trained
    some = ["--encoders", "dense", "random", "--keep-ratios", "0.3", "--train", "2"]
    status, whole = run(tmp_path / "whole", shapes, *some, "--seeds", "2")
    # seeds outermost, so that an interrupted study has all variants
    assert status == 0 and asked == [("dense", 0), ("random", 0), ("dense", 1), ("random", 1)]
    assert [[r["seed"] for r in row["runs"]] for row in whole["rows"]] == [[0, 1], [0, 1]]
    assert whole["rows"][0]["weights"]["iterations"] == 4
    files = list((tmp_path / "whole").rglob("seed-*.json"))
    assert len(files) == 4 and all(str(tmp_path) not in file.read_text() for file in files)
    assert len({row["ap"] for row in whole["rows"]}) == 2

    # the second seed on another machine, whose weights stay there
    status, _ = run(tmp_path / "other", shapes, *some, "--seed", "1")
    assert status == 0 and asked[4:] == [("dense", 1), ("random", 1)]
    carried = tmp_path / "carried"
    for file in (tmp_path / "other").rglob("seed-1.json"):
        (carried / file.parent.name).mkdir(parents=True)
        text = file.read_text().replace('"made": "', '"made": "earlier than ')
        (carried / file.parent.name / file.name).write_text(text)
    status, joined = run(tmp_path / "first", shapes, *some, "--join", carried)
    assert status == 0 and asked[6:] == [("dense", 0), ("random", 0)]
    assert accuracy(tmp_path / "first") == accuracy(tmp_path / "whole")
    for row, other in zip(joined["rows"], whole["rows"], strict=True):
        assert row["runs"] == other["runs"] and row["ap_gain"] == other["ap_gain"]

    redraw([str(tmp_path / "whole"), "--out", str(tmp_path / "again")])
    assert json.loads((tmp_path / "again/report.json").read_text())["rows"] == whole["rows"]

    # nothing is done twice, and without weights the files are enough
    for weights in (tmp_path / "whole").rglob("*.pth"):
        weights.unlink()
    status, again = run(tmp_path / "whole", shapes, *some, "--seeds", "2", "--join", carried)
    assert status == 0 and len(asked) == 8 and again["rows"] == whole["rows"]
    more = ["--keep-ratios", "0.3", "0.5"]
    status, more = run(tmp_path / "whole", shapes, *some, *more)
    said = capsys.readouterr().out
    assert "seed 1 is there already, left out" in said
    assert "AP at keep ratio [0.5] stays unknown" in said
    assert [len(row["runs"]) for row in more["rows"]] == [2, 0, 2] and len(asked) == 8


@pytest.mark.slow
def test_runs_of_another_study_are_refused(tmp_path, shapes, trained, capsys):
    some = ["--encoders", "random", "--keep-ratios", "0.3", "--train", "2"]
    run(tmp_path / "one", shapes, *some)
    copied = Path(shutil.copytree(shapes, tmp_path / "data"))
    content = json.loads((copied / "val.json").read_text())
    content["annotations"] = content["annotations"][:-1]
    (copied / "val.json").write_text(json.dumps(content))
    ratio = r"model\.encoder\.selector\.keep_ratio is 0\.3, here 0\.5"
    for data, more, message in (
        (
            shapes,
            ["--train", "3"],
            r"training\.(param_scheduler.*, here|train_cfg.max_epochs is 2)",
        ),
        (shapes, ["--train-ratio", "0.5"], ratio),
        (copied, [], r"data\.digest is"),
    ):
        assert run(tmp_path / "two", data, *some, *more, "--join", tmp_path / "one")[0] == 2
        error = capsys.readouterr().err
        assert "a run of another study" in error and re.search(message, error)
        assert not list((tmp_path / "two").rglob("seed-*.json"))
    assert run(tmp_path / "two", shapes, *some, "--join", copied)[0] == 2
    assert "holds no training run" in capsys.readouterr().err


@pytest.mark.slow
def test_a_failed_run_is_said_and_the_others_count(tmp_path, shapes, trained, capsys):
    asked, broken = trained
    broken.add(("random", 1))
    some = ["--encoders", "dense", "random", "--keep-ratios", "0.3", "--train", "2"]
    status, report = run(tmp_path / "out", shapes, *some, "--seeds", "2")
    assert status == 1 and "error: random 0.3: seed 1: out of memory" in capsys.readouterr().err
    dense, random = report["rows"]
    assert len(dense["runs"]) == 2 and len(random["runs"]) == 1 and random["error"] is None
    assert "seed 1: out of memory" in (tmp_path / "out/report.md").read_text()
    broken.clear()
    status, report = run(tmp_path / "out", shapes, *some, "--seeds", "2")
    assert status == 0 and asked[4:] == [("random", 1)]
    assert len(report["rows"][1]["runs"]) == 2


def made_up(folder, encoder, ratio, aps, epochs=12):
    """Files of finished runs, a seed for each AP."""
    for seed, ap in enumerate(aps):
        kept = None if ratio is None else 0.3
        settings = dict(
            data=dict(digest="0"),
            model=dict(type="sparse_encoders.DINO", encoder=dict(keep_ratio=kept)),
            training=dict(train_cfg=dict(max_epochs=epochs)),
        )
        weights = dict(source="trained", epochs=epochs, seconds=100.0 + seed)
        data = dict(name="cells", classes=["a"], validated=87, boxes=900, trained=205)
        measured = {ratio_key(ratio): accuracy_of(ap, 1.0, 1e-3, seed)}
        actual = Run(encoder, seed, settings, data, weights, measured, MACHINE, "today")
        actual.write(folder / f"{encoder}_1" / f"seed-{seed}.json")


def test_a_page_is_drawn_from_files_of_runs(tmp_path):
    made_up(tmp_path / "one", "focus", 0.3, (0.51, 0.52, 0.53))
    made_up(tmp_path / "one", "dense", None, (0.50, 0.51, 0.52))
    redraw([str(tmp_path / "one"), "--out", str(tmp_path / "page"), "--margin", "0.02"])
    actual = read_report(tmp_path / "page" / "report.json")
    assert [one.label for one in actual.rows] == ["dense", "focus 0.3"]  # the baseline first
    assert actual.seeds == [0, 1, 2] and actual.repeats == 0 and actual.margin == 0.02
    assert actual.rows[1].ap == pytest.approx(0.52)
    assert actual.rows[0].estimate.spread == pytest.approx(0.01)
    assert actual.rows[0].weights["seconds"] == 101.0
    assert actual.ap_verdict(actual.rows[1]) == "equal"
    assert "focus 0.3" in (tmp_path / "page/report.html").read_text()
    # with a report.json beside them, costs are its and runs are those of the files
    (tmp_path / "page/report.json").rename(tmp_path / "one/report.json")
    made_up(tmp_path / "one", "focus", 0.3, (0.41, 0.42, 0.43))
    assert read_report(tmp_path / "one").rows[1].ap == pytest.approx(0.42)
    with pytest.raises(ValueError, match="holds no training run"):
        read_report(tmp_path / "page")


def test_files_of_several_studies_are_not_mixed(tmp_path):
    made_up(tmp_path / "a", "focus", 0.3, (0.5, 0.5), epochs=3)
    made_up(tmp_path / "b", "focus", 0.3, (0.5, 0.5))
    with pytest.raises(ValueError, match=r"of focus, training.train_cfg.max_epochs is 12, here 3"):
        read_report(tmp_path)
    (file,) = (tmp_path / "b").rglob("seed-1.json")
    file.write_text("{}")
    with pytest.raises(ValueError, match=r"seed-1.json is no training run"):
        read_report(tmp_path / "b")
    assert first_difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}) == "a.1.b is 3, here 2"
    assert first_difference({"a": 1}, {}) == "a is None, here 1"
    assert first_difference({"a": [1, 2]}, {"a": [1, 2]}) is None


def test_facts_are_read_from_a_checkpoint_and_nothing_in_it_is_run(tmp_path):
    text = """
batch = 4
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.1), keys=dict({'a.b': 1}))
train_dataloader = dict(batch_size=4, sampler=[dict(shuffle=True), (1, None)])
lost = open('x', 'w')
"""
    actual = literal_settings(text)
    assert actual.pop("train_dataloader") == dict(
        batch_size=4, sampler=[dict(shuffle=True), [1, None]]
    )
    assert actual["optim_wrapper"]["keys"] == {"a.b": 1} and "lost" not in actual
    assert literal_settings("a = (") == {}
    state, path = {"weight": torch.zeros(1)}, tmp_path / "a.pth"
    torch.save(dict(state_dict=state, meta=dict(epoch=12, iter=624, cfg=text)), path)
    facts = training_facts(path)
    assert (facts["epochs"], facts["iterations"], facts["batch"]) == (12, 624, 4)
    torch.save(dict(state_dict=state, meta=dict(cfg=text.replace("0.1", "0.2"))), path)
    assert training_facts(path)["schedule"] != facts["schedule"]
    torch.save(state, path)
    assert set(training_facts(path).values()) == {None}


@pytest.mark.slow
def test_interrupted_and_resumed_a_study_has_the_same_numbers(tmp_path, shapes, monkeypatch):
    """What is interrupted is a run of mim, as a user's is; the others train here."""
    monkeypatch.setattr(study, "run_mim", run_mim_here)
    some = ["--encoders", "focus", "--keep-ratios", "0.3", "--train", "2"]
    assert run(tmp_path / "whole", shapes, *some, "--seeds", "2")[0] == 0

    parts = tmp_path / "parts"
    words = [sys.executable, tool.__file__, *command(parts, shapes, *some)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 200
        while not list(parts.rglob("last_checkpoint")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert list(parts.rglob("epoch_1.pth")) and not list(parts.rglob("seed-*.json"))
    carried = tmp_path / "carried"
    shutil.copytree(
        tmp_path / "whole/runs", carried, ignore=shutil.ignore_patterns("*-0*", "*.pth")
    )
    assert run(parts, shapes, *some, "--join", carried)[0] == 0
    assert "Resumed" in next(parts.rglob("train.log")).read_text().replace("resumed", "Resumed")
    assert accuracy(parts) == accuracy(tmp_path / "whole")
