"""Which packages are collected for a machine with a GPU, and how the build runs there."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

import pytest
import torch

import gpu_check
from gpu import build, collect, toolkit
from gpu.build import Task, build_task
from gpu.record import Record


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in ("addict-2.4.0-py3-none-any.whl", "mmcv-2.1.0.tar.gz"):
        (folder / name).write_bytes(b"0" * 2**20)
    return folder


def test_what_is_collected(tmp_path: Path) -> None:
    command = collect.collect_command(tmp_path, "3.12", ["plotly"])
    assert command[1:5] == ["-m", "pip", "download", "-q"] and "--no-deps" in command
    assert {"--abi=cp312", "--abi=abi3", "--python-version"} <= set(command)
    packages = [word.split("==")[0] for word in command if "==" in word]
    assert packages == [*collect.PACKAGES, "plotly"]


def test_what_is_carried_has_a_limit(wheels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert collect.check_sizes(wheels) == 0
    message = capsys.readouterr().out.splitlines()
    assert message[0] == "collect:   1.00 MiB addict-2.4.0-py3-none-any.whl"
    assert message[-1] == f"collect:   2.00 MiB in {wheels}, at most 60"
    with (wheels / "torch-9-any.whl").open("wb") as file:
        file.truncate(60 * 2**20)
    assert collect.check_sizes(wheels) == 1


def test_the_command_that_collects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["collect", "--also", "nothing", "--work", str(tmp_path)]
    assert gpu_check.main(command) == 2
    message = "error: --also takes packages of requirements/constraints.txt, got ['nothing']\n"
    assert capsys.readouterr().err == message
    failing = [sys.executable, "-c", "raise SystemExit(3)"]
    monkeypatch.setattr(collect, "collect_command", lambda *_: failing)
    assert gpu_check.main(command) == 1
    assert capsys.readouterr().out == "collect: pip ended with status 3\n"
    assert (tmp_path / "wheels").is_dir()


def test_the_plan(tmp_path: Path, wheels: Path) -> None:
    tasks = build.plan(tmp_path, wheels, "9.0", "2.11.0", ["/outer"])
    assert [task.name for task in tasks] == ["environment", "this package", "mmcv", "check"]
    environment, package, mmcv, _ = tasks
    assert environment.commands[2][-1].endswith("addict-2.4.0-py3-none-any.whl")
    assert mmcv.commands[0][1:] == ["tools/build_mmcv.py", "mmcv==2.1.0"]
    for task in (package, mmcv):
        assert task.environment["TORCH_CUDA_ARCH_LIST"] == "9.0"
        assert task.environment["FORCE_CUDA"] == task.environment["PIP_NO_INDEX"] == "1"
        assert task.commands[0][0] == str(tmp_path / "venv" / "bin" / "python")
    assert "CPATH" not in package.environment
    (kept,) = package.keeps.values()
    assert kept.name == "_C.so" and kept.is_relative_to(tmp_path / "built")


def test_headers_of_the_packages_that_torch_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = tmp_path / "nvidia" / "cu13" / "include"
    headers.mkdir(parents=True)
    monkeypatch.setenv("CPATH", "/own")
    assert toolkit.headers([str(tmp_path), "/none"]) == {"CPATH": f"/own:{headers}"}
    assert toolkit.headers(["/none"]) == {}


def test_the_toolkit_that_nvcc_is_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, links = tmp_path / "cuda-13.0", tmp_path / "bin"
    for folder in (home / "bin", home / "include", links):
        folder.mkdir(parents=True)
    (home / "include" / "cuda_runtime.h").touch()
    (home / "bin" / "nvcc").touch(mode=0o755)
    (links / "nvcc").symlink_to(home / "bin" / "nvcc")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(links))
    assert toolkit.cuda_home(tmp_path / "none") == {"CUDA_HOME": str(home)}
    (links / "nvcc").unlink()
    assert toolkit.cuda_home(tmp_path / "none") == {}
    assert toolkit.cuda_home(home) == {"CUDA_HOME": str(home)}
    monkeypatch.setenv("CUDA_HOME", "/own")
    assert toolkit.cuda_home(home) == {}


def test_the_command_without_a_gpu(
    tmp_path: Path,
    wheels: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only printed for the CPU; else what is missing is said: wheels, CUDA, a GPU."""
    monkeypatch.setattr(build, "ask_torch", lambda: ("2.13.0+cpu", None, None, []))
    command = ["build", "--work", str(tmp_path), "--wheels"]
    assert gpu_check.main([*command, str(tmp_path / "none"), "--device", "cpu"]) == 0
    message = capsys.readouterr().out
    assert "build: this package: would run" in message and "setup.py build_ext --inplace" in message
    assert gpu_check.main([*command, str(tmp_path / "none")]) == 2
    assert "no wheels or no mmcv-*.tar.gz in " in capsys.readouterr().err
    assert gpu_check.main([*command, str(wheels)]) == 2
    assert "is no CUDA build" in capsys.readouterr().err
    monkeypatch.setattr(build, "ask_torch", lambda: ("2.11.0", "13.0", None, []))
    assert gpu_check.main([*command, str(wheels)]) == 2
    assert "sees no GPU: give its compute capability, as in --arch" in capsys.readouterr().err
    assert not (tmp_path / "venv").exists()


@pytest.mark.slow
def test_this_python_is_asked() -> None:
    found, _, _, sites = toolkit.ask_torch()
    assert found == torch.__version__ and str(Path(torch.__path__[0]).parent) in sites


def test_what_was_built_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, kept = tmp_path / "made", tmp_path / "built" / "kept"
    write = [sys.executable, "-c", f"open({str(made)!r}, 'w').write('compiled')"]
    record = Record(tmp_path / "results.json")
    task = Task("this package", [write], {}, {made: kept})
    assert build_task(task, record, time.monotonic() + 60)
    assert kept.read_text() == "compiled"
    made.unlink()  # another machine
    assert build_task(task, record, 0)
    assert made.read_text() == "compiled"
    assert capsys.readouterr().out.endswith("kept from a former call\n")


def test_a_failing_build_is_in_the_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = Record(tmp_path / "results.json")
    bad = Task("mmcv", [[sys.executable, "-c", "raise SystemExit('no nvcc')"]])
    assert not build_task(bad, record, time.monotonic() + 60)
    case = json.loads((tmp_path / "results.json").read_text())["steps"]["build"]["mmcv"]
    assert case["state"] == "failed" and "no nvcc" in case["error"]
    assert "no nvcc" in capsys.readouterr().out
    slow = Task("mmcv", [[sys.executable, "-c", "import time; time.sleep(60)"]])
    assert not build_task(slow, record, -math.inf)
    assert "interrupted at the time limit" in capsys.readouterr().out
