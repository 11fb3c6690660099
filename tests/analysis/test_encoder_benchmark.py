"""The benchmark's arithmetic and bookkeeping; no time is asserted."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from hosts import host_config
from sparse_encoders.analysis import encoder_benchmark
from sparse_encoders.analysis.encoder_benchmark import Row, benchmark_encoders, level_shapes, table
from sparse_encoders.analysis.latency import Timing, interleaved
from sparse_encoders.analysis.memory import MIB, peak_memory
from sparse_encoders.analysis.variants import encoder_config

TOOL = Path(__file__).parents[2] / "tools" / "benchmark_encoders.py"


def test_candidates_take_turns():
    calls = []
    candidates = {name: lambda name=name: calls.append(name) for name in "ab"}
    rounds = list(interleaved(candidates, repeats=2, warmup=1))
    assert calls == ["a", "b"] * 3
    assert [number for number, _ in rounds] == [1, 2]
    assert all(len(t.seconds) == 2 for t in rounds[-1][1].values())


def test_ratios_are_taken_within_a_round():
    # a machine that slows down tenfold in the second round changes no ratio
    fast, slow = Timing((1.0, 10.0, 1.0)), Timing((2.0, 20.0, 2.0))
    assert fast.ratio_to(slow) == 0.5
    assert slow.median == 2.0
    assert slow.spread == (2.0, 20.0)


@pytest.mark.parametrize("settings", [dict(repeats=0), dict(warmup=-1)])
def test_nothing_to_time(settings):
    with pytest.raises(ValueError, match="at least one candidate"):
        next(interleaved({"a": lambda: None}, **settings))


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs Linux's resettable high-water mark"
)
def test_peak_memory_sees_what_is_held_at_once():
    def twice():
        torch.ones(16 * MIB // 4).sum()
        torch.ones(64 * MIB // 4).sum()

    assert 60 <= peak_memory(twice) / MIB <= 100


def test_levels_of_the_papers_image_size():
    assert level_shapes((800, 1066)) == ((100, 134), (50, 67), (25, 34), (13, 17))


def test_variants_keep_the_detectors_layers():
    base = dict(num_layers=3, layer_cfg=dict(ffn_cfg=dict(feedforward_channels=64)), other=1)
    config = encoder_config("focus", base, 0.2)
    assert config["num_layers"] == 3
    assert config["selector"]["keep_ratio"] == 0.2
    assert "selector" not in encoder_config("dense", base, 0.2)
    with pytest.raises(ValueError, match=r"encoder must be one of .*got 'fuzzy'"):
        encoder_config("fuzzy", base)


def test_table_shows_what_is_unknown_as_a_dash():
    line = table([Row("dense", 1.0, 0.9, 1.1, 1.0, None, None)]).splitlines()[1]
    assert line.split() == ["dense", "1.000", "0.900", "1.100", "1.000", "-", "-"]


def test_the_tool_prints_a_table_and_writes_json(tmp_path, capsys, monkeypatch):
    out = tmp_path / "out.json"
    argv = ["--size", "64", "96", "--repeats", "1", "--warmup", "0", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["benchmark_encoders.py", *argv])
    runpy.run_path(str(TOOL), run_name="__main__")
    assert "of dense" in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert [r["encoder"] for r in report["rows"]] == ["dense", "focus"]
    assert report["rows"][0]["share_of_first"] == 1.0
    assert report["machine"]["versions"]["torch"] == torch.__version__


def test_the_whole_detector_on_two_backends(monkeypatch):
    monkeypatch.setattr(encoder_benchmark, "_dino_config", lambda: host_config("DINO"))
    rows = benchmark_encoders(
        ["dense"], (64, 64), repeats=1, warmup=0, backends=("torch", "mmcv"), part="detector"
    )
    assert [r.encoder for r in rows] == ["dense/torch", "dense/mmcv"]
    with pytest.raises(ValueError, match=r"part must be one of .*got 'neck'"):
        benchmark_encoders(["dense"], (64, 64), part="neck")
