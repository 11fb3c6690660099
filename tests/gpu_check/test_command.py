"""The GPU check's record, command and goals, tried out on the CPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import gpu_check as tool
from gpu import (
    LOST,
    OUT_OF_TIME,
    ROOT,
    driver,
    goals,
    ops,
    run,
)
from gpu.build import READY
from gpu.processes import run as run_process
from gpu.record import Record
from gpu.settings import ENCODERS, Settings
from sparse_encoders.ops import has_extension

with_extension = pytest.mark.skipif(not has_extension(), reason="CUDA or CPU operators not built")
ON_CPU = ["--device", "cpu", "--tiny", "--work"]


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
