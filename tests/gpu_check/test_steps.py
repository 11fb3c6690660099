"""The GPU check, tried out on the CPU: its record, its steps, its goals."""

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
import gpu_check as tool
from gpu import (
    LOST,
    OUT_OF_TIME,
    ROOT,
    compile,
    detectors,
    driver,
    goals,
    ops,
    run,
    sanitizer,
    train,
)
from gpu import tests as suite
from gpu.build import READY
from gpu.processes import run as run_process
from gpu.record import Record
from gpu.settings import ENCODERS, TINY, Settings
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
ON_CPU = ["--device", "cpu", "--tiny", "--work"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path, **TINY)


@pytest.fixture
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small detectors in place of the full-size ones."""

    def detector(name: str, keep_ratio: float, **sizes: Any) -> Any:
        own = encoder_config(name, dict(num_layers=2), keep_ratio)
        own = {} if name == "dense" else {k: v for k, v in own.items() if k != "layer_cfg"}
        return build(detector_config("DINO", own)).eval()

    monkeypatch.setattr(detectors, "detector_with", detector)


def content(work: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((work / "results.json").read_text())
    return found


# -- the record and its cases -------------------------------------------------


def test_a_record_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    first = Record(path, "GPU, torch 1")
    first.put("ops", "a", "done", result={"seconds": 1.0})
    first.put("ops", "b", "begun")
    first.put("ops", "c", "failed", error="no")
    cases = ["a", "b", "c", "d"]
    again = Record(path, "GPU, torch 1")
    assert again.to_do("ops", cases) == ["c", "d", "b"]  # what was cut off comes last
    assert again.to_do("ops", cases, keep_failed=True) == ["d"]
    assert again.failed(["ops", "train"]) == ["ops: b", "ops: c"]
    assert again.results("ops") == {"a": {"seconds": 1.0}}
    other = Record(path, "GPU, torch 2")
    assert other.to_do("ops", cases) == cases and other.results("ops") == {}
    other.put("ops", "a", "done", result={})
    assert Record(path, "GPU, torch 1").to_do("ops", cases) == ["a", "c", "d", "b"]
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]
    for text in ("{", "[]", '{"format": 0, "steps": {}}'):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"results\.json is no.*move it away"):
            Record(path)
        assert path.read_text() == text


def test_one_failing_case_does_not_stop_the_others(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> dict[str, Any]:
        raise RuntimeError("out of luck")

    partly = {"dense": 1, "errors": {"focus": "ValueError: no"}}
    plan = {"bad": fail, "half": lambda: partly, "good": lambda: {"seconds": 2.0, "errors": {}}}
    record = Record(settings.work / "results.json")
    run.run_step("ops", plan, str, record, settings)
    said, cases = capsys.readouterr().out.splitlines(), content(settings.work)["steps"]["ops"]
    assert [cases[name]["state"] for name in plan] == ["failed", "failed", "done"]
    assert "out of luck" in cases["bad"]["error"] and cases["half"]["result"] == {"dense": 1}
    assert said[0].startswith("ops: bad: FAILED: RuntimeError: out of luck") and len(said) == 3
    assert "focus: ValueError: no" in said[1] and said[2].startswith(
        "ops: good: {'seconds': 2.0} ["
    )
    run.run_step("ops", {"good": fail}, str, record, settings)
    assert capsys.readouterr().out == "ops: 1 of 1 cases were run before\n"


def test_a_lost_gpu_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(self: Settings) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Settings, "synchronize", lost)
    record = Record(tmp_path / "results.json")
    with pytest.raises(run.Stopped, match="only in a new process: ops: a: CUDA error") as stopped:
        run.run_step("ops", {"a": dict, "b": dict}, str, record, Settings(tmp_path, "cuda"))
    assert stopped.value.status == LOST
    assert record.to_do("ops", ["a", "b"], keep_failed=True) == ["b"]


# -- the command --------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["ops", "--work", str(tmp_path)]) == 2
    assert "sees no GPU: --device cpu --tiny tries" in capsys.readouterr().err
    assert not (tmp_path / "results.json").exists()


def test_another_process_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the environment that was built, and where the GPU was lost, without what lost it."""
    started: list[list[str]] = []

    def start(program: str, command: list[str]) -> None:
        started.append(command)
        raise SystemExit

    monkeypatch.setattr(tool.os, "execv", start)
    monkeypatch.setattr(run, "run", lambda *_: LOST)
    command = ["train", "ops", "--device", "cpu", "--work", str(tmp_path), "--minutes", "5"]
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()  # of a half-made environment
    with pytest.raises(SystemExit):
        tool.main(command)
    (tmp_path / "venv" / READY).touch()
    with pytest.raises(SystemExit):
        tool.main(command)
    (first, *lost), (second, *built) = started
    assert (first, second) == (sys.executable, str(python))
    assert lost[1:3] == built[1:3] == ["ops", "train"]  # in the order in which they are needed
    assert "--keep-failed" in lost and "--keep-failed" not in built
    assert 4.9 < float(built[built.index("--minutes") + 1]) <= 5


@pytest.mark.slow
@with_extension
def test_the_command_rehearses_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "BASELINES", {"deformable": "mmcv"})  # half of the cases
    command = ["ops", "sanitizer", *ON_CPU, str(tmp_path)]
    assert tool.main(command) == 0
    said, found = capsys.readouterr().out, content(tmp_path)
    assert "ops: deformable, forward, bfloat16, local, all tokens: " in said
    assert "mmcv, in float32" in said and "goals: none was measured" in said
    assert found["machine"]["device"] == "cpu" and found["settings"]["tiny"]
    assert found["machine"]["versions"]["torch"] == torch.__version__
    assert {row["verdict"] for row in found["goals"]} == {"not measured"}
    assert {case["state"] for case in found["steps"]["ops"].values()} == {"done"}
    assert len(found["steps"]["ops"]) == 2 * 2 * 2 and len(found["steps"]["sanitizer"]) == 1
    assert tool.main([*command, "--minutes", "-1"]) == 0  # nothing is left to begin
    said = capsys.readouterr().out
    assert "ops: 8 of 8 cases were run before" in said and "deformable" not in said
    assert content(tmp_path)["steps"] == found["steps"]


def test_a_failure_is_the_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "SHAPES", ((0, 1),))
    command = ["sanitizer", *ON_CPU, str(tmp_path)]
    assert tool.main(command) == 1
    assert "1 cases failed or were interrupted: sanitizer: driver" in capsys.readouterr().out
    assert content(tmp_path)["steps"]["sanitizer"]["driver"]["state"] == "failed"
    assert tool.main([*command, "--minutes", "-1"]) == OUT_OF_TIME
    assert "the time limit is reached: sanitizer: 1 cases are left" in capsys.readouterr().out


def test_commands_in_processes_of_their_own(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "log"
    show = "import os; print(os.environ['PYTHONPATH'], os.environ['PATH'], os.environ['NEW'])"
    status, output = run_process([sys.executable, "-c", show], log, {"NEW": "set"})
    assert status == 0 and output.startswith(str(ROOT)) and output.endswith("set\n")
    assert str(Path(sys.executable).parent) in output and log.read_text() == output
    assert run_process([sys.executable, "-c", "raise SystemExit(3)"], log)[0] == 3
    with pytest.raises(TimeoutError, match=f"ended after .* see {log}"):
        run_process([sys.executable, "-c", "import time; time.sleep(60)"], log, seconds=0.1)


# -- steps --------------------------------------------------------------------


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


# -- goals --------------------------------------------------------------------


def test_goals_are_compared_with_what_was_measured(tmp_path: Path) -> None:
    record = Record(tmp_path / "r.json")
    for locations, speed in (("local", 1.7), ("random", 1.4)):
        for direction in ("forward", "forward + backward"):
            name = ops.name_of("deformable", direction, "float16", locations, 1.0)
            record.put("ops", name, "done", result={"speed_up": speed})
    few = ops.name_of("deformable", "forward", "float16", "local", 0.3)
    record.put("ops", few, "done", result={"speed_up": 0.1})  # no goal speaks of it
    row = {"encoder_of_dense": 0.4, "rate_of_dense": 1.3}
    passes = {"rows": {"dense": {}, "focus": row}}
    record.put("detectors", "passes, float32, batch 1", "failed", result=passes, error="lite")
    for dtype, names in (("float16", ENCODERS), ("float32", ENCODERS[:1])):
        result = {"waits": dict.fromkeys(names, 0)}
        record.put("detectors", f"waiting, {dtype}", "done", result=result)
    compared = goals.compare(record, on_gpu=True)
    verdicts = {row["goal"].split(":")[0]: row["verdict"] for row in compared}
    for goal, verdict in {
        "deformable attention, forward, float16": "missed",
        "deformable attention, forward + backward, float16": "met",
        "deformable attention, forward, float32": "not measured",
        "encoder with Focus 0.3, float32, batch 1": "met",
        "detector with Focus 0.3, float32, batch 1": "missed",
        "float16": "met",  # host waits
        "float32": "not measured",
    }.items():
        assert verdicts[goal] == verdict, goal
    said = goals.lines(compared)
    rate = "detector with Focus 0.3, float32, batch 1: images a second relative to the dense one"
    assert f"goal missed: {rate}: 1.30, at least 1.35" in said
    assert said[-1] == "goals: 13 were not measured"
    compared = goals.compare(record, on_gpu=False)
    assert {row["verdict"] for row in compared} == {"not measured"} and len(compared) == 18
    assert goals.lines(compared) == ["goals: none was measured"]
