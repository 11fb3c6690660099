"""The GPU check's steps, tried out on the CPU."""

from __future__ import annotations

import json
import sys
import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import demo
from gpu import (
    ROOT,
    compile,
    detectors,
    driver,
    sanitizer,
    train,
)
from gpu import tests as suite
from gpu.settings import ENCODERS, Settings
from gpu.waiting import waits
from quick import slow_but
from skips import skip_without_graphs_of_dataclasses
from sparse_encoders.analysis.variants import encoder_config
from sparse_encoders.ops import has_extension
from sparse_encoders.tokens import TokenGrid
from tiny import build
from tiny_detectors import detector_config
from training_here import run_mim_here

with_extension = pytest.mark.skipif(not has_extension(), reason="CUDA or CPU operators not built")


@pytest.fixture
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small detectors in place of the full-size ones."""

    def detector(name: str, keep_ratio: float, **sizes: Any) -> Any:
        own = encoder_config(name, dict(num_layers=2), keep_ratio)
        own = {} if name == "dense" else {k: v for k, v in own.items() if k != "layer_cfg"}
        return build(detector_config("DINO", own)).eval()

    monkeypatch.setattr(detectors, "detector_with", detector)


@pytest.mark.slow
@pytest.mark.usefixtures("_tiny")
def test_detectors(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = detectors.plan(settings)
    assert len(plan) == 6 and "passes, bfloat16, batch 1" in plan
    passes = plan["passes, float32, batch 1"]()
    assert list(passes["rows"]) == ["dense", "focus"] and passes["errors"] == {}
    for row in passes["rows"].values():
        assert sum(row["stages"].values()) == pytest.approx(row["seconds"])
        assert row["peak_mib"] > 0 and row["images_a_second"] == 1 / row["seconds"]
    dense, focus = passes["rows"].values()
    assert dense["rate_of_dense"] == dense["encoder_of_dense"] == 1.0
    assert focus["rate_of_dense"] == pytest.approx(dense["seconds"] / focus["seconds"])
    step = plan["training step, bfloat16"]()
    assert step["rows"]["focus"]["seconds"] > 0 and "dense" in detectors.line(step)

    tiny = detectors.detector_with  # one that cannot be built leaves the others
    monkeypatch.setattr(
        detectors, "detector_with", lambda name, *_, **__: tiny({"focus": name}[name], 0.3)
    )
    partly = detectors.passes(detectors.Models(settings), "float32", 1)
    assert partly["errors"] == {"dense": "KeyError: 'dense'"} and list(partly["rows"]) == ["focus"]


@pytest.mark.usefixtures("_tiny")
@pytest.mark.parametrize("name", [*ENCODERS, "lite-key-aware"])
def test_nothing_waits_between_backbone_and_head(name: str, settings: Settings) -> None:
    models = detectors.Models(replace(settings, encoders=(name,)))
    found = detectors.waiting(models, "float32")
    assert found["lines"] == {name: {}}
    assert detectors.line(found) == f"waits: {name} 0"


@pytest.mark.usefixtures("_tiny")
@pytest.mark.parametrize("name", slow_but(["focus"], ENCODERS))
def test_nothing_is_read_between_backbone_and_head(name: str) -> None:
    """Tensors without numbers on another device: reading one, or mixing devices, is an error."""
    model = detectors.detector_with(name, 0.3).to("meta")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*runs in plain PyTorch")
        features = model.extract_feat(torch.empty(2, 3, 64, 96, device="meta"))
        for second in ((64, 96), (48, 40)):
            encoded = model.encode(features, (64, 96), [(64, 96), second])
            decoded = model.decode(model.prepare_queries(encoded), encoded)
            assert decoded.states[-1].is_meta and encoded.memory.is_meta


def test_waits_are_seen() -> None:
    x = torch.randn(4)
    for call in (
        lambda: x[0].item(),
        lambda: bool(x.sum() > 0),
        lambda: x[x > 0],
        lambda: x.nonzero(),
        lambda: x.new_tensor([1, 2]),
        lambda: x.__setitem__(x > 0, 1.0),
    ):
        assert sum(waits(call, "cpu").values()) >= 1
    assert waits(lambda: (x.masked_fill(x > 0, 2.0), x.topk(2), x[torch.arange(2)]), "cpu") == {}


@with_extension
def test_the_driver_covers_the_kernels() -> None:
    names = list(driver.calls("cpu"))
    assert len(names) == len(set(names)) * 2 == 2 * 5 * 3 * 2 * 2  # at each address
    assert "key-aware, torch.bfloat16, 5 channels, 300 queries" in names


@pytest.mark.parametrize(
    ("status", "output", "wrong"),
    [
        (0, "== ERROR SUMMARY: 0 errors", None),
        (0, "== ERROR SUMMARY: 2 errors", "racecheck ended with status 0, see .*racecheck.log"),
        (9, "== RACECHECK SUMMARY: 0 hazards", "ended with status 9"),
        (0, "killed", "ended with status 0"),
    ],
)
def test_the_sanitizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, output: str, wrong: str | None
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(sanitizer, "run", lambda c, *_: commands.append(c) or (status, output))
    case = sanitizer.plan(Settings(tmp_path, "cuda:0"))["racecheck"]
    with pytest.raises(ValueError, match="compute-sanitizer was not found on PATH"):
        case()
    monkeypatch.setattr(sanitizer.shutil, "which", lambda name: name)
    with pytest.raises(ValueError, match=wrong) if wrong else nullcontext():
        assert sanitizer.line(case()) == "ERROR SUMMARY: 0 errors"
    (command,) = commands
    assert command[:3] == ["compute-sanitizer", "--tool", "racecheck"]
    assert "kns=sparse_encoders" in command and command[-1] == "cuda:0"


@pytest.mark.slow
def test_the_tests_step(settings: Settings) -> None:
    plan = suite.plan(settings)
    kernels, others = (part.args[0] for part in plan.values())
    assert kernels == ["tests/cuda/test_on_gpu.py"] and kernels[0] not in others
    assert {"tests/analysis/test_latency.py", "tests/ops/test_op_backends.py"} <= set(others)
    found = plan["kernels"]()
    assert found.get("passed", 0) or found["skipped"] >= 39


@pytest.mark.parametrize(
    ("status", "output", "wrong"),
    [
        (0, "39 passed, 2 skipped in 3.1s", None),
        (1, "FAILED tests/a.py::b - x\n1 failed, 38 passed in 3s", r"1 failed: tests/a\.py::b"),
        (0, "41 skipped in 0.1s", "ended with status 0"),
        (2, "no tests ran in 0.1s", "ended with status 2"),
    ],
)
def test_what_pytest_said(status: int, output: str, wrong: str | None) -> None:
    with pytest.raises(ValueError, match=wrong) if wrong else nullcontext():
        found = suite.read_result(status, output, on_gpu=True)
        assert found == {"passed": 39, "skipped": 2} and "39 passed" in suite.line(found)


@pytest.mark.slow
@pytest.mark.usefixtures("_tiny")
def test_compiling(settings: Settings) -> None:
    skip_without_graphs_of_dataclasses()
    plan = compile.plan(settings)
    assert list(plan) == ["torch.compile, dense, float32", "torch.compile, focus, float32"]
    for case in plan.values():
        found = case()
        assert found["difference"] < 1e-5 and found["backend"] == "aot_eager"
        assert "compiled in" in compile.line(found)


@pytest.mark.usefixtures("_tiny")
def test_an_encoder_of_plain_tensors(settings: Settings) -> None:
    model, size = detectors.Models(settings)["dense"], settings.image_hw
    maps, pos_embed = compile.random_inputs(settings)
    tokens = TokenGrid.from_maps(maps, pos_embed, image_hw=size)
    with torch.no_grad():
        found = compile.encoding_of(model, size)(maps, pos_embed)
        wanted = model.encoder(tokens, model.detector_parts()).memory
    assert compile.compare_outputs(found, wanted, "float32")["largest_difference"] == 0
    with pytest.raises(ValueError, match=r"differs by .* allowed 0\.001"):
        compile.compare_outputs(found + 1, wanted, "float32")


@pytest.mark.slow
def test_training(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's command, run in this process."""

    def run(command: list[str], *_: Any, **__: Any) -> tuple[int, str]:
        python, script, *arguments = command
        assert python == sys.executable and Path(script) == ROOT / "tools" / "demo.py"
        return demo.main(arguments), ""

    monkeypatch.setattr(train, "run", run)
    monkeypatch.setattr(demo, "run_mim", run_mim_here)
    (case,) = train.plan(settings).values()
    found = case()
    assert found["iterations"] == 2 and found["first_loss"] > 0 and "AP50" in found
    assert train.line(found).startswith("2 iterations of ")


def test_training_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo is ended after a while; its losses must be numbers."""

    def run(command: list[str], *_: Any, seconds: float) -> tuple[int, str]:
        assert command[command.index("--gpus") + 1] == "1" and seconds < 100
        wrapper = ["optim_wrapper.type=AmpOptimWrapper", "optim_wrapper.loss_scale=dynamic"]
        assert command[-2:] == wrapper
        raise TimeoutError

    monkeypatch.setattr(train, "run", run)
    plan = train.plan(Settings(tmp_path, "cuda"))
    assert list(plan) == ["demo, float16", "demo, bfloat16"]
    case = plan["demo, float16"]
    with pytest.raises(ValueError, match="no loss was written"):
        case()
    log = tmp_path / "train" / "float16" / "1" / "vis_data" / "scalars.json"
    log.parent.mkdir(parents=True)
    rows = [dict(loss=value, iter=i, step=i, time=0.1) for i, value in enumerate((3.0, 2.0))]
    log.write_text("\n".join(json.dumps(row) for row in rows))
    assert case()["last_loss"] == 2.0
    log.write_text(json.dumps({**rows[0], "loss": float("nan")}))
    with pytest.raises(ValueError, match=r"NaN or infinite in iterations \[0\]"):
        case()
    monkeypatch.setattr(train, "run", lambda *_, **__: (1, "a\nValueError: no data"))
    with pytest.raises(ValueError, match="the demo ended with status 1: ValueError: no data"):
        case()
