"""Shared by all tests: where helpers are found, a fixed seed, one thread, configs read once."""

import copy
import functools
import gc
import importlib.util
import os
import runpy
import sys
from pathlib import Path

# Tiny tensors: a second thread costs more in waiting than it saves. Set for started processes too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from mmengine.config import Config
from mmengine.config import config as config_module
from mmengine.config import utils as config_utils
from mmengine.registry import DefaultScope

from skips import (  # noqa: F401 (hooks of pytest's)
    pytest_collectreport,
    pytest_runtest_logreport,
    pytest_sessionfinish,
)

torch.set_num_threads(1)

sys.path.insert(0, str(Path(__file__).parent))

ROOT = Path(__file__).resolve().parents[1]
MMDET = Path(importlib.util.find_spec("mmdet").origin).resolve().parent
# configs and indexes that no test changes
UNCHANGED = (MMDET, ROOT / "mmdet_configs", ROOT / "model-index.yml")


def pytest_collection_finish():
    """What was imported stays: the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed_and_scope():
    """A runner sets the scope in which names are looked up for all that follows: set it back."""
    torch.manual_seed(0)
    scopes = dict(DefaultScope._instance_dict)
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(scopes)


@pytest.fixture
def run_tool(monkeypatch):
    """Runs ``tools/NAME`` in this process, with the words of its command line; its exit status."""

    def run(name, *words):
        monkeypatch.setattr(sys, "argv", [str(name), *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(ROOT / "tools" / name), run_name="__main__")
        return stopped.value.code

    return run


@pytest.fixture(scope="session", autouse=True)
def _configs_read_once_and_written_as_they_are():
    """MMEngine parses a base for every file that inherits it, and an index for every lookup.

    Its runner writes its config five times, each laid out anew by yapf in a second.
    """
    load, read = config_utils.load, Config._file2dict
    loaded, kept = functools.cache(load), {}

    def load_once(file, *args, **kwargs):
        return (loaded if _is_unchanged(file) else load)(file, *args, **kwargs)

    def read_once(filename, *args, **kwargs):
        if not _is_unchanged(filename):
            return read(filename, *args, **kwargs)
        key = (str(filename), args, tuple(sorted(kwargs.items())))
        if key not in kept:
            kept[key] = read(filename, *args, **kwargs)
        return copy.deepcopy(kept[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config_module, "FormatCode", lambda text, **_: (text, True), raising=False)
        patch.setattr(config_utils, "load", load_once)
        patch.setattr(Config, "_file2dict", staticmethod(read_once))
        yield


def _is_unchanged(file):
    return any(Path(file).resolve().is_relative_to(folder) for folder in UNCHANGED)
