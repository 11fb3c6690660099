"""Which packages are collected for a machine with a GPU, and how the build runs there."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest

import gpu_check
from gpu import build, collect, toolkit
from gpu.build import Task
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
    with pytest.raises(ValueError, match=r"--also takes packages of .*got \['nothing'\]"):
        collect.collect_command(tmp_path, "3.12", ["nothing"])


def test_what_is_carried_has_a_limit(wheels: Path) -> None:
    message: list[str] = []
    assert collect.check_sizes(wheels, message.append) == 0
    assert message[0] == "collect:   1.00 MiB addict-2.4.0-py3-none-any.whl"
    assert message[-1] == f"collect:   2.00 MiB in {wheels}, at most 60"
    with (wheels / "torch-9-any.whl").open("wb") as file:
        file.truncate(60 * 2**20)
    assert collect.check_sizes(wheels, message.append) == 1


def test_a_failing_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = [sys.executable, "-c", "raise SystemExit(3)"]
    monkeypatch.setattr(collect, "collect_command", lambda *_: failing)
    message: list[str] = []
    assert collect.collect(tmp_path / "new", "3.12", [], message.append) == 1
    assert message == ["collect: pip ended with status 3"]


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
    with pytest.raises(ValueError, match=r"no wheels or no mmcv-.*collect` first"):
        build.plan(tmp_path, tmp_path / "empty", "9.0", "2.11.0", [])


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
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "ask_torch", lambda: ("2.13.0+cpu", None, None, []))
    assert gpu_check.main(["build", "--device", "cpu", "--work", str(tmp_path)]) == 0
    message = capsys.readouterr().out
    assert "build: this package: would run" in message and "setup.py build_ext --inplace" in message
    assert not (tmp_path / "venv").exists()


def test_no_cuda_to_build_for(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for actual, message in (
        (("2.13.0+cpu", None, None, []), "is no CUDA build"),
        (("2.11.0", "13.0", None, []), "sees no GPU: give its compute capability, as in --arch"),
    ):
        monkeypatch.setattr(build, "ask_torch", lambda actual=actual: actual)
        with pytest.raises(ValueError, match=message):
            build.build(tmp_path, wheels, None, False, 1.0, print)


@pytest.mark.slow
def test_this_python_is_asked() -> None:
    torch, _, _, sites = toolkit.ask_torch()
    import torch as own

    assert torch == own.__version__ and str(Path(own.__path__[0]).parent) in sites


def test_what_was_built_is_kept(tmp_path: Path) -> None:
    made, kept = tmp_path / "made", tmp_path / "built" / "kept"
    write = [sys.executable, "-c", f"open({str(made)!r}, 'w').write('compiled')"]
    record, message = Record(tmp_path / "results.json"), []
    task = Task("this package", [write], {}, {made: kept})
    assert build._build(task, record, tmp_path, float("inf"), message.append)
    assert kept.read_text() == "compiled"
    made.unlink()  # another machine
    assert build._build(task, record, tmp_path, float("inf"), message.append)
    assert made.read_text() == "compiled" and message[-1].endswith("kept from a former call")


def test_a_failing_build_is_in_the_record(tmp_path: Path) -> None:
    record, message = Record(tmp_path / "results.json"), []
    bad = Task("mmcv", [[sys.executable, "-c", "raise SystemExit('no nvcc')"]])
    assert not build._build(bad, record, tmp_path, float("inf"), message.append)
    case = json.loads((tmp_path / "results.json").read_text())["steps"]["build"]["mmcv"]
    assert case["state"] == "failed" and "no nvcc" in case["error"] and "no nvcc" in message[0]
    slow = Task("mmcv", [[sys.executable, "-c", "import time; time.sleep(60)"]])
    assert not build._build(slow, record, tmp_path, 0.0, message.append)
    assert "interrupted at the time limit" in message[1]


def test_a_half_made_environment_is_none(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert build.python_of(tmp_path) is None
    (tmp_path / "venv" / build.READY).touch()
    assert build.python_of(tmp_path) == python


def test_options() -> None:
    parser = argparse.ArgumentParser()
    build.add_options(parser)
    args = parser.parse_args(["--python", "3.13", "--also", "plotly", "--arch", "8.0"])
    assert (args.python, args.also, args.arch) == ("3.13", ["plotly"], "8.0")
