"""The GPU check, tried out on the CPU: its record, its steps, its goals."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import demo
import gpu_check as tool
from gpu import (
    compiling,
    detectors,
    driver,
    goals,
    ops,
    run,
    sanitizer,
    suite,
    training,
)
from gpu.processes import run as run_process
from gpu.record import Record
from gpu.running import (
    DeviceLost,
    OutOfTime,
    PartlyFailed,
    run_step,
)
from gpu.settings import ENCODERS, Settings
from gpu.waiting import waits
from quick import slow_but
from skips import skip_without_graphs_of_dataclasses
from sparse_encoders.analysis.encoder_benchmark import random_tokens
from sparse_encoders.analysis.variants import encoder_config
from sparse_encoders.ops import has_extension
from tiny import build
from tiny_detectors import detector_config
from training_here import run_mim_here

ROOT = Path(__file__).parents[2]
with_extension = pytest.mark.skipif(not has_extension(), reason="CUDA or CPU operators not built")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(root=ROOT, work=tmp_path, tiny=True)


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


# -- the record ---------------------------------------------------------------


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


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 0, "steps": {}}'])
def test_another_file_is_not_overwritten(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"results\.json is no.*move it away"):
        Record(path)
    assert path.read_text() == text


def test_one_failing_case_does_not_stop_the_others(settings: Settings) -> None:
    def fail() -> dict[str, Any]:
        raise RuntimeError("out of luck")

    def partly() -> dict[str, Any]:
        return PartlyFailed.unless_complete({"dense": 1}, {"focus": "ValueError: no"})

    plan = {"bad": fail, "half": partly, "good": lambda: {"seconds": 2.0}}
    record, said = Record(settings.work / "results.json"), []
    assert not run_step("ops", plan, str, record, settings, said.append)
    cases = content(settings.work)["steps"]["ops"]
    assert [cases[name]["state"] for name in plan] == ["failed", "failed", "done"]
    assert "out of luck" in cases["bad"]["error"] and "fail()" not in cases["good"]
    assert cases["half"]["result"] == {"dense": 1} and "focus: ValueError: no" in said[1]
    assert said[0].startswith("ops: bad: FAILED: RuntimeError: out of luck") and len(said) == 3
    assert run_step("ops", {"good": fail}, str, record, settings, said.append)  # not run again
    assert said[-1] == "ops: 1 of 1 cases were run before"


def test_no_case_begins_when_the_time_is_over(tmp_path: Path) -> None:
    late = Settings(root=ROOT, work=tmp_path, minutes=-1)
    with pytest.raises(OutOfTime, match="ops: 2 cases are left"):
        run_step("ops", {"a": dict, "b": dict}, str, Record(tmp_path / "r"), late, print)


def test_a_lost_gpu_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(self: Settings) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Settings, "synchronize", lost)
    gpu = Settings(root=ROOT, work=tmp_path, device="cuda")
    record = Record(tmp_path / "results.json")
    with pytest.raises(DeviceLost, match="ops: a: CUDA error"):
        run_step("ops", {"a": dict, "b": dict}, str, record, gpu, print)
    assert record.to_do("ops", ["a", "b"], keep_failed=True) == ["b"]


# -- the command --------------------------------------------------------------


def test_bad_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        tool.main(["fly"])
    assert stopped.value.code == 2 and "invalid choice: 'fly'" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"steps must be some of tests, .*got \['fly'\]"):
        run.run(["fly"], Settings(root=ROOT, work=tmp_path), print)


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
    monkeypatch.setattr(run, "run", lambda *_: run.LOST)
    command = ["train", "ops", "--device", "cpu", "--work", str(tmp_path), "--minutes", "5"]
    with pytest.raises(SystemExit):
        tool.main(command)
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    for file in (python, tmp_path / "venv" / tool.build.READY):
        file.touch()
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
    command = ["ops", "sanitizer", "--device", "cpu", "--tiny", "--work", str(tmp_path)]
    assert tool.main(command) == 0
    said, found = capsys.readouterr().out, content(tmp_path)
    assert "ops: deformable, forward, bfloat16, local, all tokens: " in said
    assert "mmcv, in float32" in said and "goals: none was measured" in said
    assert found["machine"]["device"] == "cpu" and found["settings"]["tiny"]
    assert found["machine"]["versions"]["torch"] == torch.__version__
    assert {row["verdict"] for row in found["goals"]} == {"not measured"}
    assert {case["state"] for case in found["steps"]["ops"].values()} == {"done"}
    assert len(found["steps"]["ops"]) == 2 * 2 * 2 and len(found["steps"]["sanitizer"]) == 1
    assert tool.main(command) == 0
    said = capsys.readouterr().out
    assert "ops: 8 of 8 cases were run before" in said and "deformable" not in said
    assert content(tmp_path)["steps"] == found["steps"]
    assert tool.main([*command, "--minutes", "-1"]) == 0  # nothing was left to begin


def test_a_failure_is_the_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "SHAPES", ((0, 1),))
    command = ["sanitizer", "--device", "cpu", "--tiny", "--work", str(tmp_path)]
    assert tool.main(command) == 1
    assert "1 cases failed or were interrupted: sanitizer: driver" in capsys.readouterr().out
    assert content(tmp_path)["steps"]["sanitizer"]["driver"]["state"] == "failed"
    assert tool.main([*command, "--minutes", "-1"]) == run.OUT_OF_TIME
    assert "the time limit is reached: sanitizer: 1 cases are left" in capsys.readouterr().out


# -- steps --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("_tiny")
def test_detectors(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = detectors.plan(settings)
    assert len(plan) == 6 and "passes, bfloat16, batch 1" in plan
    passes = plan["passes, float32, batch 1"]()
    assert list(passes["rows"]) == ["dense", "focus"]
    for row in passes["rows"].values():
        assert sum(row["stages"].values()) == pytest.approx(row["seconds"])
        assert row["peak_mib"] > 0 and row["images_a_second"] == 1 / row["seconds"]
    dense, focus = passes["rows"].values()
    assert dense["rate_of_dense"] == dense["encoder_of_dense"] == 1.0
    assert focus["rate_of_dense"] == pytest.approx(dense["seconds"] / focus["seconds"])
    step = plan["training step, bfloat16"]()
    assert step["rows"]["focus"]["seconds"] > 0 and "dense" in detectors.line(step)


@pytest.mark.usefixtures("_tiny")
def test_a_detector_that_cannot_be_built_leaves_the_others(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = detectors.detector_with

    def detector(name: str, keep_ratio: float, **sizes: Any) -> Any:
        if name == "dense":
            raise ValueError("no such thing")
        return tiny(name, keep_ratio)

    monkeypatch.setattr(detectors, "detector_with", detector)
    with pytest.raises(PartlyFailed, match=r"^dense: ValueError: no such thing$") as failed:
        detectors.latency(detectors.Models(settings), "float32", 1)
    assert list(failed.value.result["rows"]) == ["focus"]


@pytest.mark.usefixtures("_tiny")
@pytest.mark.parametrize("name", [*ENCODERS, "lite-key-aware"])
def test_nothing_waits_between_backbone_and_head(
    name: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "encoders", (name,))
    found = detectors.waiting(detectors.Models(settings), "float32")
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


def test_what_the_sanitizer_is_asked() -> None:
    command = sanitizer.command_of("racecheck", "cuda:0")
    assert command[:3] == ["compute-sanitizer", "--tool", "racecheck"]
    assert "kns=sparse_encoders" in command and command[-1] == "cuda:0"


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
    if wrong is None:
        found = suite.read_result(status, output, on_gpu=True)
        assert found == {"passed": 39, "skipped": 2} and "39 passed" in suite.line(found)
        return
    with pytest.raises(ValueError, match=wrong):
        suite.read_result(status, output, on_gpu=True)


def test_which_tests_are_run(settings: Settings) -> None:
    kernels, others = (part.args[0] for part in suite.plan(settings).values())
    assert kernels == ["tests/cuda/test_on_gpu.py"]
    assert {"tests/analysis/test_latency.py", "tests/ops/test_op_backends.py"} <= set(others)
    assert all((ROOT / name).is_file() for name in others) and kernels[0] not in others


@pytest.mark.slow
def test_the_tests_step(settings: Settings) -> None:
    found = suite.plan(settings)["kernels"]()
    assert found.get("passed", 0) or found["skipped"] >= 39


@pytest.mark.slow
@pytest.mark.usefixtures("_tiny")
def test_compiling(settings: Settings) -> None:
    skip_without_graphs_of_dataclasses()
    plan = compiling.plan(settings)
    assert list(plan) == ["torch.compile, dense, float32", "torch.compile, focus, float32"]
    for case in plan.values():
        found = case()
        assert found["difference"] < 1e-5 and found["backend"] == "aot_eager"
        assert "compiled in" in compiling.line(found)


@pytest.mark.usefixtures("_tiny")
def test_an_encoder_of_plain_tensors(settings: Settings) -> None:
    model = detectors.Models(settings)["dense"]
    tokens = random_tokens(settings.image_hw, 1, "cpu")
    with torch.no_grad():
        found = compiling.Encoding(model, settings.image_hw)(*compiling._inputs(settings))
        wanted = model.encoder(tokens, model.detector_parts()).memory
    assert torch.equal(found, wanted)
    assert compiling.compare_outputs(found, wanted, "float32")["largest_difference"] == 0
    with pytest.raises(ValueError, match=r"differs by .* allowed 0\.001"):
        compiling.compare_outputs(found + 1, wanted, "float32")


@pytest.mark.slow
def test_training(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's command, run in this process."""

    def run(command: list[str], *_: Any, **__: Any) -> tuple[int, str]:
        python, script, *arguments = command
        assert python == sys.executable and Path(script) == ROOT / "tools" / "demo.py"
        return demo.main(arguments), ""

    monkeypatch.setattr(training, "run", run)
    monkeypatch.setattr(demo, "run_mim", run_mim_here)
    (case,) = training.plan(settings).values()
    found = case()
    assert found["iterations"] == 2 and found["first_loss"] > 0 and "AP50" in found
    assert training.line(found).startswith("2 iterations of ")


def test_losses_that_are_no_numbers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no loss was written"):
        training.losses_of(tmp_path)
    log = tmp_path / "1" / "vis_data" / "scalars.json"
    log.parent.mkdir(parents=True)
    rows = [dict(loss=value, iter=i, step=i, time=0.1) for i, value in enumerate((3.0, 2.0))]
    log.write_text("\n".join(json.dumps(row) for row in rows))
    assert training.losses_of(tmp_path)["last_loss"] == 2.0
    log.write_text(json.dumps({**rows[0], "loss": float("nan")}))
    with pytest.raises(ValueError, match=r"NaN or infinite in iterations \[0\]"):
        training.losses_of(tmp_path)


def test_how_the_demo_is_trained(tmp_path: Path) -> None:
    full = Settings(root=ROOT, work=tmp_path, device="cuda")
    assert list(training.plan(full)) == ["demo, float16", "demo, bfloat16"]
    command = training.command_of("float16", full)
    assert command[command.index("--gpus") + 1] == "1"
    assert command[-2:] == [
        "optim_wrapper.type=AmpOptimWrapper",
        "optim_wrapper.loss_scale=dynamic",
    ]


def test_commands_in_processes_of_their_own(settings: Settings) -> None:
    log = settings.work / "logs" / "log"
    show = "import os; print(os.environ['PYTHONPATH'], os.environ['PATH'], os.environ['NEW'])"
    status, output = run_process([sys.executable, "-c", show], log, settings, {"NEW": "set"})
    assert status == 0 and output.startswith(str(ROOT)) and output.endswith("set\n")
    assert str(Path(sys.executable).parent) in output and log.read_text() == output
    wait = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert run_process(wait, log, settings, stop_after=0.1)[0] == 0
    with pytest.raises(TimeoutError, match=f"ended after .* see {log}"):
        run_process(wait, log, settings, timeout=0.1)
    assert run_process([sys.executable, "-c", "raise SystemExit(3)"], log, settings)[0] == 3


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
    record.put(
        "detectors", "waiting, float16", "done", result={"waits": dict.fromkeys(ENCODERS, 0)}
    )
    record.put("detectors", "waiting, float32", "done", result={"waits": {"dense": 0}})
    found = {row["goal"]: row for row in goals.compare(record, on_gpu=True)}
    verdicts = {goal: row["verdict"] for goal, row in found.items()}
    start = "deformable attention, forward"
    assert verdicts[f"{start}, float16: times as fast as MMCV's operator"] == "missed"
    assert verdicts[f"{start} + backward, float16: times as fast as MMCV's operator"] == "met"
    assert verdicts[f"{start}, float32: times as fast as MMCV's operator"] == "not measured"
    assert (
        verdicts["encoder with Focus 0.3, float32, batch 1: time relative to the dense encoder"]
        == "met"
    )
    rate = "detector with Focus 0.3, float32, batch 1: images a second relative to the dense one"
    assert verdicts[rate] == "missed" and found[rate]["worst"] == 1.3
    assert verdicts["float16: host waits for the GPU between backbone and head"] == "met"
    assert verdicts["float32: host waits for the GPU between backbone and head"] == "not measured"
    said = goals.lines(list(found.values()))
    assert f"goal missed: {rate}: 1.30, at least 1.35" in said
    assert said[-1] == f"goals: {list(verdicts.values()).count('not measured')} were not measured"


def test_nothing_is_measured_on_the_cpu(tmp_path: Path) -> None:
    record = Record(tmp_path / "r.json")
    record.put(
        "detectors", "waiting, float16", "done", result={"waits": dict.fromkeys(ENCODERS, 0)}
    )
    compared = goals.compare(record, on_gpu=False)
    assert {row["verdict"] for row in compared} == {"not measured"} and len(compared) == 18
    assert goals.lines(compared) == ["goals: none was measured"]
