"""What is installed is whole: a pure wheel and a source distribution of this checkout."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ["sparse_encoders", "mmdet_configs", "csrc", "requirements", "tools"]
FILES = ["setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "model-index.yml"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy without what a build leaves behind; building must not touch this checkout."""
    copy = tmp_path_factory.mktemp("checkout")
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
    for part in PARTS:
        shutil.copytree(ROOT / part, copy / part, symlinks=True, ignore=ignored)
    for file in FILES:
        shutil.copy(ROOT / file, copy / file)
    return copy


def _run(command, cwd, **environment):
    env = {**os.environ, "SPARSE_ENCODERS_NO_EXTENSION": "1", **environment}
    run = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def installed(checkout, tmp_path_factory):
    """The wheel's content, unpacked as an installation would."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps"]
    _run([*pip, "-w", str(folder), "."], checkout)
    (wheel,) = folder.glob("sparse_encoders-*-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        archive.extractall(folder)
    return folder


@pytest.mark.slow
def test_a_wheel_has_every_module_and_every_config(checkout, installed):
    package = installed / "sparse_encoders"
    files = [p for p in (checkout / "sparse_encoders").rglob("[!.]*.*") if p.is_file()]
    assert [p for p in files if not (installed / p.relative_to(checkout)).is_file()] == []
    configs, there = (
        {p.relative_to(folder) for p in folder.rglob("*.py")}
        for folder in (checkout / "mmdet_configs", package / ".mim/configs")
    )
    assert there == configs and len(there) > 100
    record = next(installed.glob("*.dist-info/RECORD")).read_text()
    assert "sparse_encoders/.mim/configs/dino/metafile.yml,sha256=" in record


@pytest.mark.slow
def test_a_wheel_works_from_an_empty_folder(installed, tmp_path):
    name = "dino/dino-4scale_r50_lite-key-aware_8xb2-36e_coco.py"
    (tmp_path / "mine.py").write_text(f'_base_ = "sparse_encoders::{name}"\n')
    code = (
        "import sparse_encoders, sparse_encoders.ops as ops\n"
        "from mmengine.config import Config\n"
        "print(sparse_encoders.__file__, ops.has_extension())\n"
        "print(Config.fromfile('mine.py').model.encoder.schedule)\n"
    )
    paths = os.pathsep.join([str(installed), *(p for p in sys.path if "site-packages" in p)])
    out = _run([sys.executable, "-W", "ignore", "-c", code], tmp_path, PYTHONPATH=paths)
    assert str(installed) in out and "False" in out and "H3L1-(2+1)x3" in out


@pytest.mark.slow
def test_mim_runs_a_wheels_config_by_name(installed, tmp_path):
    """As far as the data, which is not there."""
    command = [str(Path(sys.executable).with_name("mim")), "train", "sparse_encoders"]
    command += ["dino_lite0_focus_shapes.py", "--gpus", "0"]
    env = {**os.environ, "PYTHONPATH": str(installed)}
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    script = installed / "sparse_encoders" / ".mim" / "tools" / "train.py"
    assert f"Training command is {sys.executable} {script}" in run.stdout
    assert run.returncode != 0 and "data/shapes/train.json" in run.stderr


def test_a_source_distribution_can_build_all(checkout, tmp_path):
    _run([sys.executable, "-W", "ignore", "setup.py", "-q", "sdist", "-d", str(tmp_path)], checkout)
    (file,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    for part in ("csrc", "mmdet_configs", "requirements"):
        files = [p for p in (checkout / part).rglob("*.*") if p.is_file()]
        assert {p.relative_to(checkout).as_posix() for p in files} <= names
    assert {"model-index.yml", "sparse_encoders/.mim/tools/train.py"} <= names


def test_the_links_of_a_checkout_lead_to_its_configs():
    mim = ROOT / "sparse_encoders" / ".mim"
    assert (mim / "configs").resolve() == ROOT / "mmdet_configs"
    assert (mim / "model-index.yml").resolve() == ROOT / "model-index.yml"
