"""The demo: the whole way through mim on a tiny set, and its parts."""

import functools
import json
import os

import pytest
from mmengine.config import Config

import demo as tool
from demo import TEST_ONLY, parse_args, training_options, write_config
from sparse_encoders.analysis import mim
from sparse_encoders.analysis.mim import cause, describe, read_scalars
from sparse_encoders.datasets import CocoFolder, ShapesSettings, make_shapes_dataset
from sparse_encoders.visualization.curves import draw_evaluations, evaluations_of

SMALL_SHAPES = functools.partial(ShapesSettings, train=4, val=2, size=64)


def write(folder, *records):
    (folder / "vis_data").mkdir(parents=True, exist_ok=True)
    with (folder / "vis_data" / "scalars.json").open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def test_a_record_in_a_line():
    train = {"lr": 3.6e-05, "loss": 14.33, "loss_cls": 0.3, "time": 1.316, "epoch": 3, "iter": 125}
    assert describe(train) == "Epoch(train) [3][125]  loss: 14.3300  time: 1.3160"
    val = {"coco/bbox_mAP": 0.195, "coco/bbox_mAP_50": 0.43, "step": 3}
    assert describe(val) == "Epoch(val) [3]  coco/bbox_mAP: 0.1950  coco/bbox_mAP_50: 0.4300"


def test_records_are_shown_once_and_when_they_are_whole(tmp_path, capsys):
    write(tmp_path / "1", {"loss": 9.0, "epoch": 1, "iter": 1})  # of an earlier run
    follow = mim._Follower(["train", "mmdet", "x.py", "--work-dir", str(tmp_path), "--gpus", "0"])
    follow.show()
    assert capsys.readouterr().out == ""
    records = {"loss": 3.0, "epoch": 1, "iter": 5}, {"loss": 2.0, "epoch": 1, "iter": 9}
    write(tmp_path / "2", *records)
    log = tmp_path / "2" / "vis_data" / "scalars.json"
    whole = log.read_text()
    log.write_text(whole[:-4])
    follow.show()
    assert capsys.readouterr().out.split() == ["Epoch(train)", "[1][5]", "loss:", "3.0000"]
    log.write_text(whole)
    follow.show()
    assert "[1][9]" in (out := capsys.readouterr().out) and "[1][5]" not in out


def test_evaluations_of_a_run_that_was_resumed(tmp_path):
    first = {"coco/bbox_mAP": 0.1, "coco/bbox_mAP_50": 0.2, "step": 1}
    write(tmp_path / "1", {"loss": 3.0, "step": 25}, first)
    write(tmp_path / "1", {"coco/bbox_mAP": 0.2, "coco/bbox_mAP_50": 0.3, "step": 2})
    write(tmp_path / "2", {"coco/bbox_mAP": 0.25, "coco/bbox_mAP_50": 0.35, "step": 2})
    assert [record.get("loss") for record in read_scalars(tmp_path)] == [3.0, None, None, None]
    evaluations = evaluations_of(read_scalars(tmp_path))
    assert evaluations == {1: (0.1, 0.2), 2: (0.25, 0.35)}
    drawn = [line.get_ydata() for line in draw_evaluations(evaluations).axes[0].lines]
    assert [list(values) for values in drawn] == [[0.2, 0.35], [0.1, 0.25]]


def test_the_config_is_written_with_its_data_set(tmp_path, monkeypatch):
    data = tmp_path / "data"
    make_shapes_dataset(data, SMALL_SHAPES())
    args = parse_args(["--work-dir", str(tmp_path), "--scale", "64", "48"])
    source = tool.CONFIGS / "dino_lite0_focus_coco-folder.py"
    path = write_config(source, CocoFolder(root=str(data), classes=("ring", "circle")), args)
    written = Config.fromfile(path)
    assert path.name == source.name and written.model.bbox_head.num_classes == 2
    assert written.train_dataloader.dataset.metainfo.classes == ("circle", "ring")
    assert written.test_evaluator.ann_file == str(data / "val.json")
    steps = written.test_dataloader.dataset.pipeline
    assert [step.scale for step in steps if step.type == "Resize"] == [(64, 48)]
    args.cfg_options = ["coco_folder.scale=64,48"]
    with pytest.raises(ValueError, match=r"coco_folder.scale=64,48: .* --scale"):
        write_config(source, CocoFolder(root=str(data)), args)


@pytest.mark.slow
def test_the_whole_demo(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, "ShapesSettings", SMALL_SHAPES)
    options = [
        "train_cfg.val_interval=1",
        "train_cfg.val_begin=1",
        "train_dataloader.batch_size=2",
        "default_hooks.logger.interval=1",
        "train_dataloader.num_workers=0",
        "train_dataloader.persistent_workers=False",
        "model.num_queries=20",
        "model.test_cfg.max_per_img=20",
        "model.backbone.weights=None",
    ]
    few = ["--epochs", "1", "--pictures", "2"]
    assert tool.main(["--work-dir", str(tmp_path), *few, "--cfg-options", *options]) == 0
    recorded = json.loads((tmp_path / "result.json").read_text())
    assert 0 <= recorded["metrics"]["coco/bbox_mAP_50"] <= 1
    out = capsys.readouterr().out
    for command in ("train", "test"):
        assert f"$ mim {command} {mim.mim_name_of_mmdet()}" in out
    assert "AP50" in out and "Epoch(train) [1][" in out  # progress
    assert f"checkpoint: {tmp_path / 'epoch_1.pth'}" in out and (tmp_path / "epoch_1.pth").is_file()
    assert f"picture: {tmp_path / 'detections.png'}" in out
    assert len(list(tmp_path.glob("*.png"))) == 3


def fake_mim(folder, monkeypatch, commands):
    """A shell script in place of the command that is installed beside Python."""
    script = folder / "mim"
    script.write_text(f"#!/bin/sh\n{commands}\n")
    script.chmod(0o755)
    monkeypatch.setattr(mim.sys, "executable", str(folder / "python"))


def test_mim_runs_as_it_does_by_hand(tmp_path, monkeypatch):
    fake_mim(tmp_path, monkeypatch, "env")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    mim.run_mim(["train", "mmdet"], tmp_path / "train.log")
    seen = dict(line.split("=", 1) for line in (tmp_path / "train.log").read_text().splitlines())
    # settings of threads decide how fast a step is
    threads = {k: v for k, v in seen.items() if k.startswith(("OMP_", "GOMP_", "KMP_", "MKL_"))}
    assert threads == {k: v for k, v in os.environ.items() if k in threads}


OWN = ["--train-json", "a.json", "--val-json", "b.json", "--images", "c"]


@pytest.mark.parametrize(
    ("words", "first"), [([], [TEST_ONLY]), (["--config", "mine.py"], []), (OWN, [])]
)
def test_only_the_drawn_sets_training_does_not_validate(words, first):
    args = parse_args([*words, "--seed", "3", "--cfg-options", "a=1"])
    assert training_options(args) == ["randomness.seed=3", *first, "a=1"]


def test_a_failing_step_says_why(tmp_path, monkeypatch):
    """mim's output ends with its own error, after that of the training that it started."""
    fake_mim(
        tmp_path,
        monkeypatch,
        """
        echo 'Traceback (most recent call last):'
        echo '    runner = Runner.from_cfg(cfg)'
        echo "KeyError: 'NoSuchDetector is not in the mmdet::model registry.'"
        echo 'Traceback (most recent call last):'
        echo "subprocess.CalledProcessError: Command '['python', 'train.py']' returned 1." >&2
        exit 1
        """,
    )
    with pytest.raises(ValueError, match=r"mim train failed, see .*train.log; .*\nKeyError: 'NoSu"):
        mim.run_mim(["train", "mmdet", "broken.py", "--gpus", "0"], tmp_path / "train.log")
    assert cause("a\nb") == "a\nb"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--train-json", "a.json"], "['--val-json', '--images'] not given"),
        (["--config", "none.py"], "config: there is no file"),
        (OWN, "there is no annotation file"),
    ],
)
def test_bad_command_lines(tmp_path, capsys, words, message):
    assert tool.main(["--work-dir", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err
