"""The sweep's arithmetic and bookkeeping; no time is asserted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import benchmark_encoders as tool
from sparse_encoders.analysis import break_even
from sparse_encoders.analysis.break_even import PASSES, draw, settings, smallest_paying, sweep
from tiny_detectors import detector_with


@pytest.fixture
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(break_even, "detector_with", detector_with)


def test_settings_begin_with_small_images() -> None:
    cells = list(settings(((64, 96), (32, 32)), (1, 2), (8,)))
    assert len(cells) == 8 and {cell.run for cell in cells} == set(PASSES)
    assert [cell.height for cell in cells] == [32] * 4 + [64] * 4
    assert str(cells[-1]) == "64 x 96, 2 layers, FFN 8, training step"


@pytest.mark.usefixtures("_tiny")
def test_shares_are_of_dense_and_the_detector_is_the_rest_and_the_encoder() -> None:
    message: list[str] = []
    cells = list(settings([(64, 96)], (1, 2), (16,)))
    frame = sweep(["focus", "lite"], cells, repeats=1, progress=message.append)
    assert list(frame[frame["encoder"] == "dense"]["share"]) == [1.0] * 4
    # Lite DETR's blocks of two layers do not fit into one
    counts = frame.groupby(["layers", "encoder"]).size()
    assert counts[1].to_dict() == {"dense": 2, "focus": 2}
    assert counts[2].to_dict() == {"dense": 2, "focus": 2, "lite": 2}
    assert sum("left out: encoder 'lite' has blocks" in line for line in message) == 2
    for _, part in frame.groupby(["layers", "pass"]):
        dense = part[part["encoder"] == "dense"].iloc[0]
        for _, row in part.iterrows():
            whole = (row["rest_seconds"] + row["seconds"]) / (dense.rest_seconds + dense.seconds)
            assert row["detector_share"] == pytest.approx(whole)
    assert (frame["tokens"] == 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2).all()
    assert frame.groupby("pass")["rest_seconds"].nunique().eq(1).all()


def lines(encoder: str, shares: dict[int, float]) -> list[dict[str, Any]]:
    common = {"pass": "inference", "ffn": 512, "layers": 2, "encoder": encoder}
    return [
        dict(common, height=n, width=n, tokens=n * n, share=x, detector_share=x)
        for n, x in shares.items()
    ]


def test_it_pays_from_the_size_on_from_which_every_larger_one_pays() -> None:
    frame = pd.DataFrame(
        lines("dense", {10: 1.0, 20: 1.0, 30: 1.0})
        + lines("focus", {30: 0.7, 10: 0.8, 20: 0.95})
        + lines("sparse", {10: 0.9, 20: 0.8, 30: 0.7})
        + lines("lite", {10: 0.5, 20: 0.5, 30: 0.91})
    )
    actual = smallest_paying(frame).set_index("encoder")
    assert actual.tokens.to_dict() == {"focus": 900, "sparse": 100, "lite": None}
    assert actual.image["focus"] == "30 x 30"


def test_a_picture_has_a_column_for_each_number_of_layers() -> None:
    frame = pd.DataFrame(lines("dense", {10: 1.0, 20: 1.0}) + lines("focus", {10: 0.9, 20: 0.5}))
    axes = draw(pd.concat([frame, frame.assign(layers=6)])).axes
    assert [axis.get_title() for axis in axes[:2]] == ["2 layers", "6 layers"]
    (drawn,) = (line for line in axes[1].lines if line.get_label() == "focus")
    assert list(drawn.get_xdata()) == [100, 400] and list(drawn.get_ydata()) == [0.9, 0.5]


@pytest.mark.slow
@pytest.mark.usefixtures("_tiny")
def test_the_tool_joins_earlier_sweeps_and_does_not_measure_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, both, picture = tmp_path / "first.json", tmp_path / "both.json", tmp_path / "p.svg"

    def run(words: str, out: Path) -> dict[str, Any]:
        monkeypatch.setattr("sys.argv", ["x", *words.split(), "--json", str(out)])
        tool.main()
        return json.loads(out.read_text())

    common = "--encoders dense sparse --layers 1 --ffn 16 --repeats 1"
    earlier = run(f"{common} --sizes 32x32 --plot {picture}", first)
    assert len(earlier["rows"]) == 2 * 2 and earlier["machine"]["processor"]
    assert "smallest" in capsys.readouterr().out and picture.exists()
    report = run(f"{common} --sizes 32x32 64x96 --join {first}", both)
    assert "32 x 32" not in capsys.readouterr().err  # progress
    assert len(report["rows"]) == 2 * 2 * 2 and report["rows"][:4] == earlier["rows"]
    # without a size of its own it draws only, also on another machine
    report["machine"]["processor"] = "another"
    both.write_text(json.dumps(report))
    monkeypatch.setattr(break_even, "sweep", lambda *_: pd.DataFrame())
    drawn = run(f"--join {both}", first)
    assert drawn["rows"] == report["rows"] and drawn["machine"] == report["machine"]


@pytest.mark.parametrize("words", ["--sizes 32", "--sizes 0x5", "--sizes axb", "--layers 0"])
def test_bad_sizes(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["x", *words.split()])
    with pytest.raises(SystemExit):
        tool.parse()
    assert "must be" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("report", "complaint"),
    [
        ({"machine": {"processor": "other"}}, "machine.processor is 'other'"),
        ({"settings": {"keep_ratio": 0.5}}, "settings.keep_ratio is 0.5"),
        ({"rows": [{"seconds": 1.0}]}, "without the rows"),
    ],
)
def test_times_of_other_machines_are_not_joined(report: dict[str, Any], complaint: str) -> None:
    here = {"machine": {"processor": "this"}, "settings": {"keep_ratio": 0.3}, "rows": []}
    with pytest.raises(ValueError, match=complaint):
        break_even.joined([here | report], here)
