"""The set-up's parts that run without installing anything, and the check of this environment."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from sparse_encoders import compat

ROOT = Path(__file__).resolve().parent.parent


def _tool(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module(name)


@pytest.fixture
def mmcv_tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _tool("build_mmcv", monkeypatch)


@pytest.fixture
def setup_tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _tool("setup_environment", monkeypatch)


@pytest.fixture
def check_tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _tool("check_environment", monkeypatch)


@pytest.mark.parametrize("file", ["constraints.txt", "stack.txt", "stack-onedl.txt"])
def test_every_requirement_is_pinned_by_name(file: str) -> None:
    lines = (ROOT / "requirements" / file).read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    assert wanted
    for line in wanted:
        requirement = Requirement(line)
        assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)), line
        assert requirement.url is None, line


@pytest.mark.parametrize("stack", ["openmmlab", "onedl"])
def test_pins_are_within_the_accepted_ranges(setup_tool: ModuleType, stack: str) -> None:
    locked, mmcv = setup_tool.pinned(stack)
    pinned = {**locked, "torch": setup_tool.pins("stack.txt")["torch"], "mmcv": mmcv}
    if stack == "onedl":
        assert not {"mmengine", "mmdet", "openmim"} & set(locked)
        assert mmcv.startswith("onedl-mmcv==") and "onedl-mim" in locked
        fork = {"mmengine": "onedl-mmengine", "mmdet": "onedl-mmdetection"}
        pinned.update({name: locked[other] for name, other in fork.items()})
    for name, accepted in compat.ACCEPTED_VERSIONS.items():
        assert SpecifierSet(accepted).contains(pinned[name].split("==")[1]), name


def test_an_unknown_stack(setup_tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACK", "openlab")
    with pytest.raises(SystemExit, match="STACK must be one of openmmlab, onedl, got 'openlab'"):
        setup_tool.stack_name()
    monkeypatch.setenv("STACK", "")
    assert setup_tool.stack_name() == "openmmlab"


def test_package_metadata_states_the_accepted_ranges() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = [*project["dependencies"], *project["optional-dependencies"]["openmmlab"]]
    ranges = {Requirement(line).name: Requirement(line).specifier for line in stated}
    for name, accepted in compat.ACCEPTED_VERSIONS.items():
        assert ranges[name] == SpecifierSet(accepted), name


def test_cache_folder(mmcv_tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSE_ENCODERS_CACHE", "/some/where")
    assert mmcv_tool.cache_folder() == Path("/some/where")
    monkeypatch.delenv("SPARSE_ENCODERS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert mmcv_tool.cache_folder() == Path("/xdg/sparse_encoders")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert mmcv_tool.cache_folder() == Path.home() / ".cache" / "sparse_encoders"


def test_wheel_key_follows_torch(mmcv_tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    first = mmcv_tool.wheel_key("mmcv==2.1.0")
    assert first.startswith("mmcv-2.1.0_") and torch.__version__ in first
    monkeypatch.setattr(torch, "__version__", "2.9.0+cpu")
    assert mmcv_tool.wheel_key("mmcv==2.1.0") != first


def test_only_a_whole_wheel_with_operators_is_used(mmcv_tool: ModuleType, tmp_path: Path) -> None:
    wheel = tmp_path / "mmcv-2.1.0-cp311-cp311-linux_x86_64.whl"
    assert mmcv_tool.usable_wheel(tmp_path) is None
    wheel.write_bytes(b"cut off")
    assert mmcv_tool.usable_wheel(tmp_path) is None and not wheel.exists()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("mmcv/__init__.py", "")
    assert mmcv_tool.usable_wheel(tmp_path) is None and not wheel.exists()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("mmcv/_ext.cpython-311-x86_64-linux-gnu.so", "x" * 100)
    assert mmcv_tool.usable_wheel(tmp_path) == wheel
    wheel.write_bytes(wheel.read_bytes().replace(b"xxxxx", b"xxyxx", 1))
    assert mmcv_tool.usable_wheel(tmp_path) is None


def test_progress_reads_ninja(mmcv_tool: ModuleType) -> None:
    progress = mmcv_tool.Progress("compiling")
    assert "0/? files" in progress.status()
    progress.line("running build_ext\n")
    progress.line("[12/90] c++ -MMD -MF x.o.d\n")
    progress.line("x.cpp:3:1: warning: [1/2] is no progress\n")
    assert "12/90 files" in progress.status() and "s left" in progress.status()


def test_a_failed_build_shows_its_last_lines(
    mmcv_tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "print('[1/2] c++ a.cpp'); print('a.cpp:1: error: no'); raise SystemExit(3)"
    log = tmp_path / "logs" / "build.log"
    with pytest.raises(SystemExit, match="status 3"):
        mmcv_tool.run_with_progress([sys.executable, "-c", code], "compiling", log, tmp_path)
    shown = capsys.readouterr().out
    assert "a.cpp:1: error: no" in shown and "1/2 files" in shown
    assert "error: no" in log.read_text()


def test_no_compiler_is_said_before_the_build(
    mmcv_tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(SystemExit, match=r"no-such-compiler.*install g\+\+"):
        mmcv_tool.check_compiler()


def test_digest_depends_on_content_and_name(
    setup_tool: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(setup_tool, "ROOT", tmp_path)
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("1")
    a, b = (setup_tool.digest([tmp_path / name]) for name in "ab")
    assert len({a, b, setup_tool.digest([tmp_path / "a"], "more")}) == 3
    (tmp_path / "a").write_text("2")
    assert setup_tool.digest([tmp_path / "a"]) != a


def test_stamp_survives_damage(setup_tool: ModuleType, tmp_path: Path) -> None:
    environment = setup_tool.Environment(tmp_path)
    assert environment.stamp() == {}
    environment.note(stack="1")
    environment.note(package="2")
    expected = {"folder": str(tmp_path), "stack": "1", "package": "2"}
    assert environment.stamp() == expected
    environment.stamp_file.write_text("{cut")
    assert environment.stamp() == {}


def test_torch_facts_of_this_environment(setup_tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    environment = setup_tool.Environment(tmp_path)
    environment.python = Path(sys.executable)
    facts = environment.torch_facts()
    assert facts.torch == torch.__version__
    assert "sympy" in facts.of_torch and "typing-extensions" in facts.of_torch


def test_pip_complaints(check_tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = "mmengine 0.10.7 requires opencv-python, which is not installed."
    answer = SimpleNamespace(returncode=1, stdout=expected + "\n", stderr="")
    monkeypatch.setattr(check_tool.subprocess, "run", lambda *args, **kwargs: answer)
    assert [line.startswith("expected: mmengine") for line in check_tool.pip_check()] == [True]
    answer.stdout += "timm 1.0 has requirement torch>=9, but you have torch 2.13.0.\n"
    with pytest.raises(RuntimeError, match=r"^timm 1\.0 has requirement"):
        list(check_tool.pip_check())
    answer.stdout, answer.stderr = "", "pip broke"
    with pytest.raises(RuntimeError, match="pip broke"):
        list(check_tool.pip_check())


def test_this_environment_passes_its_check() -> None:
    command = [sys.executable, str(ROOT / "tools" / "check_environment.py")]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert run.returncode == 0, run.stdout + run.stderr
    for name in ("torch", "mmcv ops", "extension", "pip check"):
        assert re.search(rf"^  {name} ", run.stdout, re.MULTILINE), name


class _Recorded:
    """Stands for an environment: answers with given facts and records what pip is asked for."""

    def __init__(self, folder: Path, facts: object, linked: bool = False):
        self.folder, self.facts, self.asked = folder, facts, []
        if linked:
            self.torch_link().write_text("/outside\n")

    def torch_facts(self) -> object:
        return self.facts

    def torch_link(self) -> Path:
        return self.folder / "link.pth"

    def run(self, *arguments: str, check: bool, quiet: bool) -> None:
        assert arguments == ("-m", "pip", "uninstall", "-y", "torch")

    def pip(self, *arguments: str) -> None:
        self.asked.append(arguments)


@pytest.mark.parametrize(
    ("torch_here", "torchvision_here", "linked", "asked"),
    [
        ("2.13.0+cpu", None, False, "torchvision==0.28.0"),
        ("2.13.0+cu130", "0.28.0", False, "torchvision==0.28.0"),
        ("2.9.1+cu128", None, False, "torchvision==0.24.*"),
        ("2.9.1+cu128", "0.24.1+cu128", True, "torchvision"),
    ],
)
def test_torchvision_goes_with_torch_and_never_replaces_it(
    setup_tool: ModuleType,
    tmp_path: Path,
    torch_here: str,
    torchvision_here: str | None,
    linked: bool,
    asked: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("STACK", raising=False)
    facts = setup_tool.TorchFacts(torch_here, torchvision_here, ["sympy"])
    environment = _Recorded(tmp_path, facts, linked)
    setup_tool.provide_packages(environment)
    packages, vision = environment.asked
    assert "--no-deps" in packages and ("--ignore-installed" in packages) is linked
    assert vision == ("-q", "--no-deps", asked)
    locked = (tmp_path / "requirements-in-use.txt").read_text()
    assert ("sympy==" in locked) is torch_here.startswith("2.13.0")
    assert "mmdet==3.3.0" in locked and "\ntorch==" not in locked


@pytest.mark.parametrize(
    ("wanted", "here", "outside", "asked", "linked"),
    [
        ("", "2.12.0", ("2.13.0", "/out"), [], False),  # the environment's own is kept
        ("", None, ("2.12.0", "/out"), [], True),  # then the one PYTHON imports
        ("", None, None, ["torch==2.13.0", "-c"], False),  # then the tested default
        ("system", "2.12.0", ("2.13.0", "/out"), [], True),
        ("torch==2.9.1 --pre", "2.12.0", None, ["torch==2.9.1", "--pre"], False),
    ],
)
def test_which_torch_is_used(
    setup_tool: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    wanted: str,
    here: str | None,
    outside: tuple[str, str] | None,
    asked: list[str],
    linked: bool,
) -> None:
    monkeypatch.setattr(setup_tool, "importable_torch", lambda: outside)
    environment = _Recorded(tmp_path, setup_tool.TorchFacts(here, None, []))
    setup_tool.provide_torch(environment, wanted)
    assert [list(call)[: len(asked)] for call in environment.asked] == ([asked] if asked else [])
    assert environment.torch_link().exists() is linked


def test_system_torch_that_is_not_there(
    setup_tool: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(setup_tool, "importable_torch", lambda: None)
    environment = _Recorded(tmp_path, setup_tool.TorchFacts(None, None, []))
    with pytest.raises(SystemExit, match="TORCH=system"):
        setup_tool.provide_torch(environment, "system")
