"""Memory of training steps: what it grows with, and what lowers it."""

import json

import pytest

import measure_memory as tool
from sparse_encoders.analysis import training_memory as measured
from sparse_encoders.analysis.variants import encoder_config
from tiny import build
from tiny_detectors import detector_config


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    """A small detector in place of the full-size one."""

    def detector(name, keep_ratio, max_boxes=None):
        own = {} if name == "dense" else encoder_config(name, {}, keep_ratio)
        config = detector_config("DINO", own)
        config.dn_cfg.max_boxes = max_boxes
        return build(config).eval()

    monkeypatch.setattr(measured, "detector_with", detector)


@pytest.mark.slow
def test_larger_images_and_batches_take_more_and_checkpointing_less():
    settings = ("float32", "checkpointed")
    message = []
    table = measured.training_memory(
        ["dense"], [(64, 96), (128, 192)], (1, 2), settings=settings, progress=message.append
    )
    assert list(table.columns) == ["dense, float32", "dense, checkpointed"] and len(message) == 8
    assert list(table.index) == [
        (image, batch, 8) for image in ("64 x 96", "128 x 192") for batch in (1, 2)
    ]
    plain = list(table["dense, float32"])
    assert plain[0] < plain[1] and plain[2] < plain[3] and plain[0] < plain[2]
    assert table["dense, checkpointed"].iloc[3] < plain[3]


@pytest.mark.slow
def test_boxes_take_memory_unless_they_are_limited():
    few, many = measured.training_memory(["focus"], [(64, 96)], boxes=(4, 400)).focus
    limited = measured.training_memory(["focus"], [(64, 96)], boxes=(400,), max_boxes=4).focus
    assert many > 2 * few and limited.iloc[0] < 1.5 * few


def test_the_tool_prints_a_table_and_writes_json(tmp_path, capsys, monkeypatch):
    out = tmp_path / "memory.json"
    words = ["--sizes", "64x96", "--encoders", "focus", "--settings", "bfloat16"]
    monkeypatch.setattr("sys.argv", ["measure_memory.py", *words, "--json", str(out)])
    assert tool.main() == 0
    printed = capsys.readouterr()
    assert "allocator of cpu" in printed.out and "| 64 x 96" in printed.out
    assert "focus, bfloat16: 1 x 64 x 96, 8 boxes" in printed.err
    content = json.loads(out.read_text())
    assert content["rows"][0]["focus"] > 0 and content["machine"]
    with pytest.raises(ValueError, match=r"settings must be some of float32, .* got \['tiny'\]"):
        measured.training_memory(["dense"], [(64, 96)], settings=["tiny"])
