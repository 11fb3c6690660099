"""Joining a process group without CUDA, and only then."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import Config

from sparse_encoders import cpu_launch

CONFIG = "mmdet_configs/dino/dino_lite0_focus_shapes_cpu-processes.py"


@pytest.fixture
def joined(monkeypatch):
    """Backends of the groups that are joined."""
    found: list[str] = []
    monkeypatch.setattr(cpu_launch.dist, "init_process_group", found.append)
    for name in cpu_launch.LAUNCHER_VARIABLES:
        monkeypatch.setenv(name, "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return found


def test_a_launched_process_joins(joined):
    assert cpu_launch.join_group()
    assert joined == ["gloo"]


@pytest.mark.parametrize("missing", cpu_launch.LAUNCHER_VARIABLES)
def test_without_a_launcher_nothing_happens(joined, monkeypatch, missing):
    monkeypatch.delenv(missing)
    assert not cpu_launch.join_group()
    assert joined == []


def test_with_cuda_it_is_mmengines_business(joined, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not cpu_launch.join_group()


def test_a_group_that_exists_is_left_alone(joined, monkeypatch):
    monkeypatch.setattr(cpu_launch.dist, "is_initialized", lambda: True)
    assert not cpu_launch.join_group()


def test_the_config_names_no_device(request):
    config = Config.fromfile(str(request.config.rootpath / CONFIG))
    assert config.env_cfg.dist_cfg.backend == "gloo"
    assert config.model_wrapper_cfg == dict(type="MMDistributedDataParallel", device_ids=None)
    assert "sparse_encoders.cpu_launch" in config.custom_imports.imports
