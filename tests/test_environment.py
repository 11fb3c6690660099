"""Parts of the set-up that run without installing anything, and checks of this environment."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmcv.ops import RoIAlign, nms
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import build_mmcv
import setup_environment
from sparse_encoders import compat

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
EXPECTED_COMPLAINTS = (
    r"(onedl-)?(mmengine|mmcv) \S+ requires opencv-python,",  # the headless one is the same module
    r"(openmim|onedl-mim) \S+ requires opendatalab,",  # for downloads only; its pins fight torch's
    r"imaug \S+ (requires|has requirement) (opencv-python|imagecorruptions-imaug)",  # not used
    r"onedl-mim \S+ has requirement pandas==",  # what it uses is in newer ones, too
)


def test_every_requirement_is_pinned() -> None:
    for file in (ROOT / "requirements").glob("*.txt"):
        lines = [line for line in file.read_text().splitlines() if line and line[0] != "#"]
        assert lines, file
        for line in lines:
            assert re.fullmatch(r"==[\w.]+", str(Requirement(line).specifier)), (file, line)


@pytest.mark.parametrize(
    ("stack", "python", "torch_version", "numpy", "torchvision"),
    [
        ("openmmlab", (3, 11), "2.13.0+cpu", "2", "==0.28.0"),
        ("openmmlab", (3, 13), "2.9.1", "2", "==0.24.*"),
        ("openmmlab", (3, 10), "2.9.1", "1", "==0.24.*"),
        ("openmmlab", (3, 11), "2.1.2+cu121", "1", "==0.16.*"),
        ("onedl", (3, 11), "2.13.0", "2", "==0.28.0"),
    ],
)
def test_pins_go_together(
    stack: str, python: tuple[int, int], torch_version: str, numpy: str, torchvision: str
) -> None:
    locked, mmcv = setup_environment.locked(stack, python, torch_version)
    assert locked["numpy"].startswith(f"numpy=={numpy}.")
    assert locked["torchvision"] == f"torchvision{torchvision}"
    fork = {"mmengine": "onedl-mmengine", "mmdet": "onedl-mmdetection"}
    assert (fork["mmdet"] in locked) is (stack == "onedl") is not ("mmdet" in locked)
    actual = {name: locked.get(name) or locked[other] for name, other in fork.items()}
    for name, line in {**actual, "mmcv": mmcv, "torch": f"torch=={torch_version}"}.items():
        assert SpecifierSet(compat.ACCEPTED_VERSIONS[name]).contains(line.split("==")[1]), name


def test_package_metadata_states_the_accepted_ranges() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = [*project["dependencies"], *project["optional-dependencies"]["openmmlab"]]
    ranges = {Requirement(line).name: Requirement(line).specifier for line in stated}
    for name, accepted in compat.ACCEPTED_VERSIONS.items():
        assert ranges[name] == SpecifierSet(accepted), name


def test_each_combination_has_its_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    name = setup_environment.folder_name
    assert name("openmmlab", (3, 11), "") == name("openmmlab", (3, 11), "torch==2.13.0") == ".venv"
    assert name("onedl", (3, 12), "") == ".venv-onedl-py3.12"
    older = name("openmmlab", (3, 10), "torch==2.1.2 --index-url https://index/cpu")
    assert older == ".venv-py3.10-torch2.1.2"
    monkeypatch.setattr(setup_environment, "STACK", "openlab")
    with pytest.raises(SystemExit, match="onedl, got 'openlab'"):
        setup_environment.main()


@pytest.mark.parametrize(
    ("requirement", "own", "outer", "requested"),
    [
        ("", "2.12.0", "2.13.0 /out", None),  # the environment's own is kept
        ("", None, "2.12.0 /out", None),  # then the one PYTHON imports
        ("", None, "1.13.1 /out", "torch==2.13.0"),  # then the tested default
        ("system", "2.12.0", "2.1.2 /out", None),
        ("torch==2.9.1 --pre", "2.12.0", "", "torch==2.9.1"),
    ],
)
def test_which_torch_is_used(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    requirement: str,
    own: str | None,
    outer: str,
    requested: str | None,
) -> None:
    ran: list[tuple[str, ...]] = []
    link, answer = tmp_path / "link.pth", SimpleNamespace(stdout=outer, returncode=0)
    monkeypatch.setattr(setup_environment, "LINK", link)
    monkeypatch.setattr(setup_environment, "installed", lambda name: own)
    monkeypatch.setattr(setup_environment, "run", lambda *arguments: ran.append(arguments))
    monkeypatch.setattr(setup_environment.subprocess, "run", lambda *a, **k: answer)
    setup_environment.provide_torch(requirement, "python3")
    installed = [arguments[4] for arguments in ran if "install" in arguments]
    assert installed == ([requested] if requested else [])
    links = not requested and "/out" in outer and (requirement == "system" or not own)
    assert link.exists() is links
    with pytest.raises(SystemExit, match="imports no torch from 2"):
        answer.stdout = ""
        setup_environment.provide_torch("system", "python3")


def test_a_cached_wheel_is_for_one_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    first = build_mmcv.wheel_key("mmcv==2.1.0")
    assert first.startswith("mmcv-2.1.0_") and torch.__version__ in first
    monkeypatch.setattr(torch, "__version__", "2.9.0+cpu")
    assert build_mmcv.wheel_key("mmcv==2.1.0") != first


def test_grouped_files_compile_where_names_clash(tmp_path: Path) -> None:
    csrc = tmp_path / "mmcv" / "ops" / "csrc" / "pytorch"
    (csrc / "cpu").mkdir(parents=True)
    for name in ("pytorch_cpp_helper.hpp", "pytorch_device_registry.hpp"):
        (csrc / name).write_text("#pragma once\n#include <algorithm>\n")
    (csrc / "pybind.cpp").touch()
    (csrc / "a.cpp").write_text("void a_cpu(); void a() { a_cpu(); }\nint add(int x);\n")
    for name, number in (("a", 1), ("b", 2)):
        helper = f"struct Calc {{ int i = {number}; }};\ninline int add(int x) {{ return x; }}\n"
        macro = "#define min(a, b) ((a) < (b) ? (a) : (b))\n" if number == 1 else ""
        use = f"void {name}_cpu() {{ add(std::max(1, Calc().i)); (std::min)(1, 2); }}\n"
        include = '#include "pytorch_cpp_helper.hpp"\n'
        (csrc / "cpu" / f"{name}.cpp").write_text(include + helper + macro + use)
    build_mmcv.group_sources(tmp_path)
    left = sorted(str(path.relative_to(csrc)) for path in csrc.rglob("*.cpp"))
    assert left == ["all_but_pybind.cpp", "pybind.cpp"]
    command = ["c++", "-std=c++17", "-fsyntax-only", f"-I{csrc}", str(csrc / left[0])]
    compiled = subprocess.run(command, capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stderr


def test_mmcv_is_built_plainly_where_grouping_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def compiled(mmcv: str, work: Path, variables: dict[str, str], grouped: bool) -> Path:
        assert (Path(variables["PYTHONPATH"]) / "sitecustomize.py").is_file()
        if grouped:
            raise RuntimeError("the library does not load")
        (work / "mmcv.whl").write_text("whole")
        return work / "mmcv.whl"

    monkeypatch.setattr(build_mmcv.subprocess, "run", lambda *a, **k: None)
    monkeypatch.setattr(build_mmcv, "compile_mmcv", compiled)
    assert build_mmcv.build_wheel("mmcv==2.1.0", tmp_path).read_text() == "whole"
    assert "the library does not load\n    running MMCV's own build" in capsys.readouterr().out
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(SystemExit, match=r"no-such-compiler.*install g\+\+"):
        build_mmcv.build_wheel("mmcv==2.1.0", tmp_path)


def test_a_failed_build_shows_its_last_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "print('a.cpp:1: error: no'); raise SystemExit(3)"
    command = [sys.executable, "-c", code]
    with pytest.raises(SystemExit, match="compiling: failed with status 3"):
        build_mmcv.run_logged(command, "compiling", tmp_path / "log", tmp_path)
    assert "a.cpp:1: error: no" in capsys.readouterr().out


def test_operators_of_mmcv_that_detectors_use() -> None:
    corner = torch.rand(40, 2, generator=torch.Generator().manual_seed(0)) * 20
    boxes = torch.cat([corner, corner + 10], 1)
    scores, left = torch.linspace(1, 0.1, 40), list(range(40))
    kept = []
    while left:  # greedy, best first
        kept.append(left.pop(0))
        low = torch.maximum(boxes[kept[-1], :2], boxes[left, :2])
        high = torch.minimum(boxes[kept[-1], 2:], boxes[left, 2:])
        shared = (high - low).clamp(min=0).prod(1)
        left = [i for i, area in zip(left, shared, strict=True) if area / (200 - area) <= 0.3]
    assert nms(boxes, scores, 0.3)[1].tolist() == kept and 5 < len(kept) < 35
    ramp = (torch.arange(16.0)[:, None] + 100 * torch.arange(16.0))[None, None]
    bins = RoIAlign(2, sampling_ratio=2)(ramp, torch.tensor([[0.0, 2, 4, 6, 12]]))[0, 0]
    centres = torch.tensor([5.5, 9.5])[:, None] + 100 * torch.tensor([2.5, 4.5])
    torch.testing.assert_close(bins, centres)


def test_pip_has_no_other_complaints() -> None:
    check = [sys.executable, "-m", "pip", "check"]
    for line in subprocess.run(check, capture_output=True, text=True).stdout.splitlines():
        expected = any(re.match(complaint, line) for complaint in EXPECTED_COMPLAINTS)
        assert expected or line == "No broken requirements found.", line
