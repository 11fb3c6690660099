"""The demo: the whole way through mim on a tiny set, and its parts."""

import json
import os

import pytest

import demo as tool
from sparse_encoders.analysis import demo
from sparse_encoders.analysis.demo import DemoSettings, cause, folder_options, run_demo, shorten
from sparse_encoders.datasets import CocoFolder, ShapesSettings

LINE = (
    "11/21 12:17:24 - mmengine - INFO - Epoch(train)  [3][25/50]  base_lr: 3.6e-05 lr: 3.6e-05  "
    "eta: 0:00:38  time: 1.3160  data_time: 0.0165  grad_norm: 26.6  loss: 14.3300  "
    "loss_cls: 0.3068  d0.loss_cls: 0.31"
)


def test_a_log_line_keeps_what_a_reader_follows():
    assert shorten(LINE) == "Epoch(train) [3][25/50]  eta: 0:00:38  loss: 14.3300"
    val = "11/21 12:17:24 - mmengine - INFO - Epoch(val) [3][5/5]    coco/bbox_mAP: 0.1950  "
    assert shorten(val + "coco/bbox_mAP_50: 0.43") == (
        "Epoch(val) [3][5/5]  coco/bbox_mAP: 0.1950  coco/bbox_mAP_50: 0.43"
    )


def test_the_cause_is_the_first_error_not_mims():
    tail = "Traceback\n  File x\nValueError: too small\nsubprocess.CalledProcessError: Command\n"
    assert cause(tail) == "ValueError: too small"
    assert cause("a\nb") == "a\nb"


def test_options_name_the_data_set():
    folder = CocoFolder(root="r", classes=("a", "b"), scale=(64, 48))
    assert folder_options(folder) == [
        "coco_folder.root=r",
        "coco_folder.train=train.json",
        "coco_folder.val=val.json",
        "coco_folder.images=images",
        "coco_folder.classes=a,b",
        "coco_folder.scale=64,48",
    ]


@pytest.mark.slow
def test_the_whole_demo(tmp_path, request, capsys):
    config = request.config.rootpath / "mmdet_configs/dino/dino_lite0_focus_shapes.py"
    settings = DemoSettings(
        config=config,
        work_dir=tmp_path / "demo",
        shapes=ShapesSettings(train=4, val=2, size=64),
        pictures=2,
        options=[
            "train_cfg.max_epochs=1",
            "train_cfg.val_interval=1",
            "train_dataloader.batch_size=2",
            "train_dataloader.num_workers=0",
            "train_dataloader.persistent_workers=False",
            "model.num_queries=20",
            "model.test_cfg.max_per_img=20",
            "model.backbone.weights=None",
        ],
    )
    result = run_demo(settings)
    assert 0 <= result.metrics["coco/bbox_mAP_50"] <= 1
    assert result.checkpoint.is_file()
    assert result.pictures[0].name == "detections.png"
    assert len(result.pictures) == 3 and all(p.is_file() for p in result.pictures)
    recorded = json.loads((tmp_path / "demo" / "result.json").read_text())
    assert recorded["metrics"] == result.metrics
    out = capsys.readouterr().out
    for command in ("train", "test"):
        assert f"$ mim {command} {demo.mim_name_of_mmdet()}" in out
    assert "AP50" in out


def test_mim_runs_as_it_does_by_hand(tmp_path, monkeypatch):
    mim = tmp_path / "mim"
    mim.write_text("#!/bin/sh\nenv\n")
    mim.chmod(0o755)
    monkeypatch.setattr(demo.sys, "executable", str(tmp_path / "python"))
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    demo.run_mim(["train", "mmdet"], tmp_path / "train.log")
    seen = dict(line.split("=", 1) for line in (tmp_path / "train.log").read_text().splitlines())
    # settings of threads decide how fast a step is
    threads = {k: v for k, v in seen.items() if k.startswith(("OMP_", "GOMP_", "KMP_", "MKL_"))}
    assert threads == {k: v for k, v in os.environ.items() if k in threads}


def test_only_the_drawn_sets_training_does_not_validate(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(tool, "run_demo", ran.append)
    work = ["--work-dir", str(tmp_path), "--cfg-options", "a=1"]
    own = ["--train-json", "a.json", "--val-json", "b.json", "--images", "c"]
    for arguments in ([], ["--config", "mine.py"], own):
        assert tool.main([*work, *arguments]) == 0
    assert [list(settings.options) for settings in ran] == [
        [tool.TEST_ONLY, "a=1"],
        ["a=1"],
        ["a=1"],
    ]


@pytest.mark.slow
def test_a_failing_step_says_why(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("model = dict(type='NoSuchDetector')\n")
    with pytest.raises(ValueError, match=r"mim train failed, see .*train.log"):
        demo.run_mim(["train", "mmdet", str(broken), "--gpus", "0"], tmp_path / "train.log")


def test_bad_command_lines(tmp_path, capsys):
    work = ["--work-dir", str(tmp_path)]
    assert tool.main([*work, "--train-json", "a.json"]) == 2
    assert "['--val-json', '--images'] not given" in capsys.readouterr().err
    assert tool.main([*work, "--config", "none.py"]) == 2
    assert "config: there is no file" in capsys.readouterr().err
    named = [*work, "--train-json", "a.json", "--val-json", "b.json", "--images", "c"]
    assert tool.main(named) == 2
    assert "there is no annotation file" in capsys.readouterr().err
