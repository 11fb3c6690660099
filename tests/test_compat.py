"""The torchvision schemas, the checkpoint types and the version check."""

from __future__ import annotations

import argparse
import codecs
import datetime
import fractions
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import BaseMetric
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader, Runner
from torch import Tensor, nn

from skips import version_lacks
from sparse_encoders import compat
from sparse_encoders.weights_only import read_weights_only

# What reads a file weights-only: this package's reader, and torch's own where it takes our types.
READERS: dict[str, Callable[[Path], Any]] = {"own": read_weights_only, "used": compat.load_weights}
if compat._takes_names():
    READERS["torch"] = compat.checkpoint_types()(lambda path: torch.load(path, weights_only=True))
readers = pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
ROOT = Path(__file__).resolve().parent.parent


class _Line(BaseModel):
    """One weight, so that a runner has something to train."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, *samples: Tensor, mode: str = "tensor") -> Any:
        out = self.linear(torch.stack(samples))
        return {"loss": out.square().mean()} if mode == "loss" else [out]


class _Score(BaseMetric):
    """A metric that leaves NumPy scalars in the message hub, as COCO's does."""

    default_prefix = "toy"

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(1)

    def compute_metrics(self, results: list[Any]) -> dict[str, Any]:
        return {"double": np.float64(0.25), "single": np.float32(0.5), "flag": np.bool_(True)}


def _runner(work_dir: Path, epochs: int, resume: bool = False) -> Runner:
    loader = {
        "batch_size": 2,
        "dataset": [torch.full((1,), float(i)) for i in range(4)],
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "collate_fn": pseudo_collate,
    }
    best = {"type": "CheckpointHook", "interval": 1, "save_best": "toy/double", "rule": "greater"}
    return Runner(
        _Line(),
        work_dir=str(work_dir),
        default_scope="mmdet",
        train_dataloader=loader,
        val_dataloader=loader,
        val_evaluator=[_Score()],
        train_cfg={"by_epoch": True, "max_epochs": epochs},
        val_cfg={},
        optim_wrapper={"optimizer": {"type": "AdamW", "lr": 0.1}},
        param_scheduler=[{"type": "MultiStepLR", "milestones": [1]}],
        default_hooks={"checkpoint": best, "logger": {"type": "LoggerHook", "interval": 1}},
        custom_hooks=[{"type": "EMAHook"}],
        experiment_name=f"{work_dir.name}_{epochs}",
        resume=resume,
        log_level="ERROR",
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with the checkpoints of two epochs by MMEngine's own runner."""
    folder = tmp_path_factory.mktemp("run")
    _runner(folder, epochs=2).train()
    return folder


@pytest.mark.slow
def test_torchvision_and_timm_import_after_the_package_and_timm_not_with_it() -> None:
    code = "import sys, sparse_encoders.backbones; assert 'timm' not in sys.modules\n"
    code += "import torchvision, timm; print(torchvision.__version__)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_an_operator_that_is_only_declared_still_refuses_to_run() -> None:
    if not compat._declared:
        pytest.skip("torchvision's own operators are loaded here")
    import torchvision

    with pytest.raises(RuntimeError, match="Couldn't load custom C\\+\\+ ops"):
        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)


def test_missing_operators_are_declared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    declared: list[Any] = []
    monkeypatch.setattr(compat, "_declared", declared)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    compat.declare_torchvision_schemas()
    assert not declared  # known by now, from torchvision's library or by the package's import
    schema = "not_there_yet(Tensor dets) -> Tensor"
    monkeypatch.setattr(compat, "_TORCHVISION_SCHEMAS", (schema,))
    with monkeypatch.context() as patch:
        patch.setattr(torch.ops, "torchvision", None)
        patch.setattr(torch.ops, "load_library", lambda path: None)
        patch.setattr(compat, "find_spec", lambda name: None)
        compat.declare_torchvision_schemas()
        assert not declared
        patch.setattr(compat, "find_spec", lambda name: ModuleSpec(name, None, is_package=True))
        compat.declare_torchvision_schemas()
    assert len(declared) == 1 and hasattr(torch.ops.torchvision, "not_there_yet")


@readers
def test_real_checkpoints_load_as_without_restrictions(
    trained: Path, read: Callable[[Path], Any]
) -> None:
    actual = {path.name for path in trained.glob("*.pth")}
    assert {"epoch_1.pth", "epoch_2.pth", "best_toy_double_epoch_1.pth"} <= actual
    for path in trained.glob("*.pth"):
        ours, theirs = read(path), torch.load(path, weights_only=False)
        for name, value in theirs["state_dict"].items():
            assert torch.equal(ours["state_dict"][name], value)
        assert ours["meta"] == theirs["meta"]
        if "best" not in path.name:
            assert ours["optimizer"]["param_groups"] == theirs["optimizer"]["param_groups"]
            assert ours["param_schedulers"] == theirs["param_schedulers"]
        mine, other = (c["message_hub"]["log_scalars"] for c in (ours, theirs))
        assert mine.keys() == other.keys()
        for name, buffer in mine.items():
            np.testing.assert_array_equal(buffer.data, other[name].data)
        losses = mine["train/loss"]
        assert isinstance(losses, HistoryBuffer) and len(losses.data[0]) >= 2
        assert losses.statistics("mean") == pytest.approx(losses.data[0].mean())


@pytest.mark.skipif(not compat._takes_names(), reason=version_lacks("list of allowed types"))
def test_nothing_is_allowed_but_while_a_checkpoint_is_read(trained: Path) -> None:
    path = str(trained / "epoch_2.pth")

    class Own:
        """A class that a user has allowed."""

    with torch.serialization.safe_globals([Own]):
        before = set(torch.serialization.get_safe_globals())
        with compat.checkpoint_types([Own]):
            assert len(torch.serialization.get_safe_globals()) > len(before)
        compat.load_weights(path)
        CheckpointLoader.load_checkpoint(path)
        assert set(torch.serialization.get_safe_globals()) == before
        with pytest.raises(pickle.UnpicklingError, match=r"HistoryBuffer|numpy"):
            torch.load(path, weights_only=True)


def test_resume_goes_on_where_it_was(trained: Path) -> None:
    runner = _runner(trained, epochs=3, resume=True)
    runner.train()
    assert (runner.epoch, runner.iter) == (3, 6)
    assert runner.message_hub.get_scalar("train/loss").data[0].size == 6


class _Foreign:
    """A type that no checkpoint of MMEngine holds."""


class _Call:
    """Pickles as a call of a function with given arguments, and a state to fill in."""

    def __init__(self, function: Callable[..., Any], *arguments: object, state: object = None):
        self.call = (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


FOREIGN = {
    "own class": _Foreign(),
    "fraction": fractions.Fraction(1, 2),
    "date": datetime.date(2020, 1, 1),
    "path": Path("x"),
    "method": HistoryBuffer.update,
    "objects": np.array([None, 1], dtype=object),
    "dates": np.array(["2020-01-01"], dtype="datetime64[D]"),
    "namespace": argparse.Namespace(a=1),
    "another function": _Call(os.system, "true"),
    "initializer": _Call(getattr, HistoryBuffer, "__init__"),
    "another method": _Call(getattr, HistoryBuffer, "register_statistics"),
    "another type's method": _Call(getattr, np.ndarray, "min"),
    "another attribute": _Call(getattr, fractions.Fraction, "min"),
    "state of a function": _Call(getattr, HistoryBuffer, "min", state={"__defaults__": ((),)}),
}
OWN = {"dtype of objects": _Call(np.dtype, "O"), "encoding": _Call(codecs.encode, "a", "rot13")}


@pytest.mark.parametrize(
    ("reader", "kind"),
    [*((reader, kind) for reader in READERS for kind in FOREIGN), *(("own", kind) for kind in OWN)],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_anything_else_is_refused(reader: str, kind: str, zipped: bool, tmp_path: Path) -> None:
    path, foreign = tmp_path / "foreign.pth", {**FOREIGN, **OWN}[kind]
    content = {"state_dict": {}, "extra": foreign}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(Exception, match=r"Weights only load failed|a checkpoint may look up"):
        READERS[reader](path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("read", [read_weights_only, compat.load_weights])
def test_weights_of_every_dtype_and_settings_are_read(
    read: Callable[..., Any], zipped: bool, tmp_path: Path
) -> None:
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool)
    saved = {str(dtype): torch.arange(6).view(2, 3).t().to(dtype) for dtype in dtypes}
    saved["learned"] = nn.Parameter(torch.ones(2))
    args = argparse.Namespace(lr=0.1, names=["a", "b"])
    path = tmp_path / "weights.pth"
    torch.save({"model": saved, "args": args}, path, _use_new_zipfile_serialization=zipped)
    actual = read(path, [argparse.Namespace])
    assert actual["args"] == args
    assert actual["model"].keys() == saved.keys()
    for name, value in saved.items():
        assert actual["model"][name].dtype == value.dtype
        assert torch.equal(actual["model"][name], value)


@readers
@pytest.mark.parametrize("value", [HistoryBuffer([1, 2], [1, 1]), np.float64(1), np.int64(2)])
def test_numpy_1_files_load(value: object, tmp_path: Path, read: Callable[[Path], Any]) -> None:
    """NumPy 1 wrote ``numpy.core`` where NumPy 2 writes ``numpy._core``."""
    new, old = tmp_path / "new.pth", tmp_path / "old.pth"
    torch.save({"value": value}, new, _use_new_zipfile_serialization=False)
    old.write_bytes(new.read_bytes().replace(b"numpy._core.", b"numpy.core."))
    assert b"numpy.core." in old.read_bytes()
    loaded = read(old)["value"]
    assert type(loaded) is type(value)


@pytest.mark.parametrize(
    ("package", "actual", "text"),
    [
        ("mmcv", "2.2.0", "mmcv is 2.2.0"),
        ("mmdet", "3.2.0", "mmdet is 3.2.0"),
        ("mmengine", None, "mmengine is not installed"),
        ("torch", "2.0.1", "torch is 2.0.1"),
        ("torch", "2.13.0+cpu", None),
        ("torch", "2.1.2+cu121", None),
    ],
)
def test_a_wrong_version_is_named_with_all_ranges(
    monkeypatch: pytest.MonkeyPatch, package: str, actual: str | None, text: str | None
) -> None:
    real = compat.installed_version
    monkeypatch.setattr(
        compat, "installed_version", lambda name: actual if name == package else real(name)
    )
    if package == "torch":
        monkeypatch.setattr(torch, "__version__", actual)
    if text is None:
        return compat.check_versions()
    with pytest.raises(ImportError, match=re.escape(text)) as error:
        compat.check_versions()
    for name, accepted in compat.ACCEPTED_VERSIONS.items():
        assert f"{name} {accepted}" in str(error.value)
    return None
