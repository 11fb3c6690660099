"""A test suite that leaves out too much fails; of one that does not this suite is the proof."""

import subprocess
import sys
from pathlib import Path

import pytest

import skips

ALLOWED = {"no GPU": 2, r"torch \S+ has no x": 1}


@pytest.mark.parametrize(
    ("reasons", "wrong"),
    [
        (["no GPU"] * 2 + ["torch 2.1.2 has no x"], []),
        (["no GPU"] * 3, ["3 tests are skipped, at most 2 may: no GPU"]),
        (["no GPU today"], ["no test may be skipped because: no GPU today"]),
    ],
)
def test_reasons_and_numbers_are_bounded(reasons: list[str], wrong: list[str]) -> None:
    assert skips.refused(reasons, ALLOWED) == wrong


@pytest.mark.slow
def test_a_session_fails_for_its_skips(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "from skips import pytest_collectreport, pytest_runtest_logreport, pytest_sessionfinish\n"
    )
    (tmp_path / "test_x.py").write_text(
        "import pytest\n@pytest.mark.skip(reason='it fails on Tuesdays')\ndef test_x():\n    pass\n"
        "@pytest.mark.skip(reason='needs a GPU')\ndef test_y():\n    pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    command += ["-c", "/dev/null", "--rootdir", str(tmp_path)]
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parent), "PATH": ""},
    )
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout + run.stderr
    assert run.stdout.count("SKIPPED TOO MUCH: no test may be skipped because: it fails on") == 1
