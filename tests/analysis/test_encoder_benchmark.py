"""The arithmetic and bookkeeping of benchmarks of time and memory; no time is asserted."""

from __future__ import annotations

import json
import math

import pytest
import torch

import benchmark_encoders as tool
import benchmark_ops as ops_tool
import measure_memory as memory_tool
from sparse_encoders.analysis import encoder_benchmark, require, training_memory
from sparse_encoders.analysis.benchmark import benchmark, records, table
from sparse_encoders.analysis.encoder_benchmark import (
    benchmark_encoders,
    level_shapes,
    measure_training,
)
from sparse_encoders.analysis.memory import MIB, peak_memory
from sparse_encoders.analysis.operator_benchmark import BASELINES
from sparse_encoders.analysis.variants import encoder_config
from sparse_encoders.ops import has_extension
from tiny_detectors import detector_config, detector_with


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


def floats(mib):
    return torch.zeros(mib * MIB // 4)


def test_peak_memory_is_what_is_held_at_once_whatever_was_held_before():
    def large():
        first = floats(8)
        second = first + 1  # 16 MiB are held here
        del first
        return floats(4) + second.sum()

    held = [floats(8)]

    def free():
        held.clear()
        return floats(2)

    assert peak_memory(lambda: floats(4)) == 4 * MIB
    peak = peak_memory(large)
    assert 16 * MIB <= peak < 16.1 * MIB
    assert peak_memory(free) == 2 * MIB
    kept = floats(32)
    assert peak_memory(large) == peak and len(kept)


def test_calls_side_by_side():
    calls = {"short": lambda: sum(range(1000)), "long": lambda: sum(range(300_000))}
    frame = benchmark(calls, repeats=3, memory=False)
    assert list(frame.index) == ["short", "long"]
    assert frame.share_of_first["short"] == 1 < frame.share_of_first["long"]
    assert (frame.fastest <= frame.seconds).all() and (frame.seconds <= frame.slowest).all()
    lines = table(frame).splitlines()
    assert len(lines) == 4 and "of short" in lines[0] and lines[2].split("|")[-2].strip() == "-"
    assert "of its own" in table(frame, "its own").splitlines()[0]
    assert json.loads(json.dumps(records(frame)))[1]["name"] == "long"
    assert records(frame)[0]["peak_mib"] is None
    with pytest.raises(ValueError, match=r"nowhere must be installed: pip install .*\[analysis\]"):
        require("json", "nowhere")


@pytest.fixture
def _tiny(monkeypatch):
    monkeypatch.setattr(encoder_benchmark, "detector_with", detector_with)
    monkeypatch.setattr(encoder_benchmark, "_dino", lambda: detector_config("DINO"))
    monkeypatch.setattr(training_memory, "detector_with", detector_with)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a tool and read what it writes."""

    def call(tool, words):
        out = tmp_path / "out.json"
        monkeypatch.setattr("sys.argv", ["tool.py", *words.split(), "--json", str(out)])
        assert not tool.main()
        return json.loads(out.read_text())

    return call


@pytest.mark.usefixtures("_tiny")
def test_the_tool_prints_a_table_and_writes_json(run, capsys):
    report = run(tool, "--size 64 96 --repeats 1 --warmup 0")
    assert "of dense" in capsys.readouterr().out
    assert [r["encoder"] for r in report["rows"]] == ["dense", "focus"]
    assert report["rows"][0]["share_of_first"] == 1.0
    assert report["machine"]["versions"]["torch"] == torch.__version__


@pytest.mark.usefixtures("_tiny")
def test_the_whole_detector_on_two_backends():
    frame = benchmark_encoders(
        ["dense"], (64, 64), repeats=1, warmup=0, backends=("torch", "mmcv"), part="detector"
    )
    assert list(frame.index) == ["dense/torch", "dense/mmcv"]
    with pytest.raises(ValueError, match=r"part must be one of .*got 'neck'"):
        benchmark_encoders(["dense"], (64, 64), part="neck")


@pytest.mark.slow
@pytest.mark.usefixtures("_tiny")
def test_as_many_dense_layers_as_cost_the_same():
    message = []
    names = ["none", "dense-matched", "hybrid", "focus"]
    frame = benchmark_encoders(names, (64, 64), 0.1, repeats=1, warmup=0, progress=message.append)
    assert list(frame.index) == ["none", "dense-matched (dense-1)", "hybrid", "focus"]
    (match,) = (
        text for text in message if text.startswith("dense-matched has 1 of 2 dense layers")
    )
    assert "matched to focus 0.1" in match


@pytest.mark.slow
@pytest.mark.usefixtures("_tiny")
def test_training_steps():
    message = []
    frame = measure_training(
        ["dense"], (64, 96), num_cps=(0, 2), repeats=1, progress=message.append
    )
    assert list(frame.index) == ["dense", "dense"] and list(frame.num_cp) == [0, 2]
    assert (frame.seconds > 0).all() and message[-1].startswith("round 1 of 1")
    assert records(frame)[1]["num_cp"] == 2 and records(frame)[1]["encoder"] == "dense"
    for num_cps in ((3,), (-1, 0), ()):
        with pytest.raises(ValueError, match="num_cps must be some of 0 to 2 layers, got"):
            measure_training(["dense"], (64, 96), num_cps=num_cps)


@pytest.mark.slow
@pytest.mark.usefixtures("_tiny")
def test_memory_of_training_steps_grows_with_images_and_boxes_and_checkpointing_lowers_it():
    measure, message = training_memory.training_memory, []
    sizes, settings = [(64, 96), (128, 192)], ("float32", "checkpointed")
    table = measure(["dense"], sizes, (1, 2), settings=settings, progress=message.append)
    assert list(table.columns) == ["dense, float32", "dense, checkpointed"] and len(message) == 8
    images = ("64 x 96", "128 x 192")
    assert list(table.index) == [(image, batch, 8) for image in images for batch in (1, 2)]
    plain = list(table["dense, float32"])
    assert plain[0] < plain[1] and plain[2] < plain[3] and plain[0] < plain[2]
    assert table["dense, checkpointed"].iloc[3] < plain[3]
    few, many = measure(["focus"], sizes[:1], boxes=(4, 400)).focus
    limited = measure(["focus"], sizes[:1], boxes=(400,), max_boxes=4).focus
    assert many > 2 * few and limited.iloc[0] < 1.5 * few


@pytest.mark.usefixtures("_tiny")
def test_the_tool_for_memory(run, capsys):
    content = run(memory_tool, "--sizes 64x96 --encoders focus --settings bfloat16")
    printed = capsys.readouterr()
    assert "allocator of cpu" in printed.out and "| 64 x 96" in printed.out
    assert "focus, bfloat16: 1 x 64 x 96, 8 boxes" in printed.err
    assert content["rows"][0]["focus"] > 0 and content["machine"]
    with pytest.raises(ValueError, match=r"settings must be some of float32, .* got \['tiny'\]"):
        training_memory.training_memory(["dense"], [(64, 96)], settings=["tiny"])


@pytest.mark.slow
@pytest.mark.skipif(not has_extension(), reason="needs the compiled operators")
def test_operators_beside_what_they_replace(run, capsys):
    results = run(ops_tool, "--size 64 64 --keep 0.5 --repeats 1")["results"]
    assert len(results) == 2 * 2 * 2 and results[0]["queries"] == 42
    for result in results:
        assert result["baseline"] == BASELINES[result["operator"]]
        ratio = result["baseline_seconds"] / result["seconds"]
        assert math.isclose(result["speed_up"], ratio)  # one round
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2 + 8
