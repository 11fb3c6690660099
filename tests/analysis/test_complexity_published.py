"""The published models' table, and the command that writes it."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from published_models import (
    BEGIN,
    END,
    IMAGE_HW,
    PUBLISHED,
    Comparison,
    as_records,
    compare_published,
    write_tables,
)
from quick import slow_but
from sparse_encoders.analysis.complexity import PARTS, count_complexity
from tiny import build
from tiny_detectors import detector_config

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("published", slow_but(PUBLISHED[:1], PUBLISHED), ids=lambda p: p.name)
def test_published(published, monkeypatch):
    monkeypatch.setattr("published_models.PUBLISHED", (published,))
    (row,) = compare_published(ROOT / "mmdet_configs")
    assert row.complexity.image_hw == IMAGE_HW
    assert abs(row.total_difference) <= 0.02, row.total
    assert abs(row.encoder_difference) <= 0.03, row.encoder
    assert row.agrees
    assert as_records([row])[0]["total"]["madds"] == row.complexity.madds
    documented = (ROOT / "docs" / "complexity.md").read_text()
    assert f"| {published.name} | {row.total:.1f} | {published.total:.1f} |" in documented


def test_tables_are_written_between_marks(tmp_path):
    row = Comparison(PUBLISHED[0], count_complexity(build(detector_config("DINO")), (64, 96)))
    file = tmp_path / "c.md"
    file.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_tables(file, [row])
    text = file.read_text()
    assert text.startswith(f"before\n{BEGIN}\n\n| model |") and text.endswith(f"{END}\nafter\n")
    assert "old" not in text and PUBLISHED[0].name in text
    file.write_text(BEGIN)
    with pytest.raises(ValueError, match="must hold the lines"):
        write_tables(file, [row])
    with pytest.raises(ValueError, match="there is no file"):
        write_tables(tmp_path / "none.md", [row])


def test_command(tmp_path, monkeypatch, capsys):
    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["count_complexity.py", *arguments])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "tools" / "count_complexity.py"), run_name="__main__")
        return int(end.value.code)

    config = str(ROOT / "mmdet_configs" / "dino" / "dino_lite0_focus_shapes.py")
    out = tmp_path / "out.json"
    options = ["--cfg-options", "model.num_queries=70", "--json", str(out)]
    assert run(config, "--size", "128", "128", *options) == 0
    record = json.loads(out.read_text())
    assert record["image_hw"] == [128, 128] and list(record["parts"]) == list(PARTS)
    assert "| encoder.selector |" in capsys.readouterr().out
    assert run(config, "--size", "128", "0") == 1
    assert "above 0, got (128, 0)" in capsys.readouterr().err
    assert run() == run(config, "--published") == run(config, "--markdown", "x.md") == 2
    assert "give either CONFIG" in capsys.readouterr().err
