"""The launcher: names become files, and several processes without a GPU join their group."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparse_encoders import launch
from sparse_encoders.configs import config_path
from sparse_encoders.datasets import ShapesSettings, make_shapes_dataset

ROOT = Path(__file__).parents[1]
NAME = "dino_lite0_focus_shapes"
PYTORCH = ["--launcher", "pytorch"]


@pytest.fixture
def joined(monkeypatch):
    """Backends of the groups that are joined, in a process that a launcher has started."""
    actual: list[str] = []
    monkeypatch.setattr(launch.dist, "init_process_group", actual.append)
    for name in launch.LAUNCHER_VARIABLES:
        monkeypatch.setenv(name, "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return actual


@pytest.fixture
def ran(monkeypatch):
    """Arguments of the scripts that are run."""
    actual: list[list[str]] = []
    monkeypatch.setattr(runpy, "run_path", lambda script, run_name: actual.append(sys.argv))
    monkeypatch.setattr(sys, "argv", [])
    return actual


def test_a_name_becomes_a_file_and_options_are_handed_on(ran, monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("RANK", raising=False)
    options = ["a.pth", "--work-dir", "w", "--cfg-options", "model.num_queries=7"]
    launch.main(["test", NAME, *options])
    script, *arguments = ran[0]
    assert script.endswith("test.py") and Path(script).is_file()
    assert arguments == [config_path(NAME), *options]
    for command in ("train", "test"):  # by mim, whose launcher says the local rank first
        sys.argv = ["script", "--local-rank=0", NAME, "--launcher", "none"]
        script = ROOT / "sparse_encoders" / ".mim" / "tools" / f"{command}.py"
        exec(compile(script.read_text(), script, "exec"), {"__name__": "__main__"})
        assert ran[-1][0].endswith(f"{command}.py")
        assert ran[-1][1:] == [config_path(NAME), "--launcher", "none"]
    del ran[:]
    with monkeypatch.context() as without_scripts:
        without_scripts.setattr(launch, "files", lambda package: tmp_path)
        with pytest.raises(FileNotFoundError, match=r"MMDetection has no script .*test\.py"):
            launch.main(["test", NAME])
    with pytest.raises(ValueError, match=r"similar: .*dino_lite0_focus_shapes"):
        launch.main(["train", "dino_lite0_fokus_shapes"])
    with pytest.raises(SystemExit):
        launch.main(["train"])
    assert "CONFIG" in capsys.readouterr().err and not ran


@pytest.mark.parametrize(
    ("gpu", "exists", "missing", "options", "groups", "added"),
    [
        (False, False, "", [], ["gloo"], [*PYTORCH, *launch._ON_CPU]),
        (False, True, "", [], [], [*PYTORCH, *launch._ON_CPU]),
        (True, False, "", [], [], PYTORCH),  # MMEngine joins it
        (False, False, "", ["--launcher", "slurm"], [], []),
        *((False, False, name, [], [], []) for name in launch.LAUNCHER_VARIABLES),
    ],
)
def test_one_of_several_processes_joins_its_group_without_a_gpu(
    ran, joined, monkeypatch, gpu, exists, missing, options, groups, added
):
    monkeypatch.delenv(missing, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(launch.dist, "is_initialized", lambda: exists)
    launch.main(["train", NAME, *options])
    assert joined == groups
    assert ran[0][2:] == [*options, *added]


@pytest.mark.parametrize(
    "own",
    [
        "runner_type = 'FlexibleRunner'",
        "model_wrapper_cfg = dict(type='MMDistributedDataParallel')",
    ],
)
def test_what_wraps_the_model_otherwise_stays(ran, joined, tmp_path, own):
    config = tmp_path / "own.py"
    config.write_text(f"_base_ = {config_path(NAME)!r}\n{own}\n")
    launch.main(["train", str(config)])
    assert joined == ["gloo"] and ran[0][2:] == PYTORCH


SHORT = (
    "train_cfg.max_epochs=1",
    "train_cfg.val_interval=5",
    "model.num_queries=20",
    "model.test_cfg.max_per_img=20",
    "default_hooks.logger.interval=1",
)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="trains on the CPU only")
def test_two_processes_train_and_save(tmp_path):
    make_shapes_dataset(tmp_path / "data/shapes", ShapesSettings(train=12, val=2, size=64))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "sparse_encoders.launch", "train", NAME]
    run = subprocess.run(
        [*command, "--work-dir", "work", "--cfg-options", *SHORT],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert (tmp_path / "work" / "epoch_1.pth").is_file()
    # 12 images in batches of 3 on two processes
    steps = re.findall(r"Epoch\(train\)\s+\[1\]\[(\d)/(\d)\]", run.stdout + run.stderr)
    assert steps[-1] == ("2", "2")
