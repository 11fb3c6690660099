"""What tools/compare_selectors.py runs, without running it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparse_encoders.analysis.comparison import (
    DETECTORS,
    ENCODERS,
    Comparison,
    Row,
    as_table,
    describe,
    logged_losses,
    reported_metrics,
)

CONFIGS = Path(__file__).parents[2] / "mmdet_configs"


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "train.json").write_text("{}")
    return Comparison(CONFIGS, tmp_path, tmp_path / "runs", epochs=3, keep_ratio=0.4)


@pytest.mark.parametrize("detector", DETECTORS)
def test_only_the_encoder_differs(settings, detector):
    found = {name: describe(settings, detector, name) for name in ENCODERS}
    rest = []
    for name, config in found.items():
        encoder = config.model.pop("encoder")
        assert encoder.num_layers == 2
        assert ("selector" in encoder) == (name != "dense")
        if name != "dense":
            assert encoder.selector.keep_ratio == 0.4
        assert config.train_cfg.max_epochs == 3 and config.param_scheduler[1].end == 3
        rest.append(config.to_dict())
    assert all(other == rest[0] for other in rest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(encoders=["sparsest"]), "encoders must be some of"),
        (dict(detectors=[]), "detectors must be some of"),
        (dict(epochs=0), "epochs must be at least 1, got 0"),
        (dict(keep_ratio=2.0), r"keep_ratio must lie in \(0, 1\], got 2\.0"),
    ],
)
def test_settings_are_checked(settings, change, message):
    with pytest.raises(ValueError, match=message):
        Comparison(CONFIGS, settings.data, settings.work_dir, **change)


def test_missing_data(tmp_path):
    with pytest.raises(ValueError, match=r"there is no .*train\.json"):
        Comparison(CONFIGS, tmp_path, tmp_path)


def test_outcomes_are_read_and_shown(tmp_path):
    (tmp_path / "now" / "vis_data").mkdir(parents=True)
    lines = [{"loss": 3.0}, {"coco/bbox_mAP": 0.1}, {"loss": 1.0}]
    (tmp_path / "now" / "vis_data" / "scalars.json").write_text("\n".join(map(json.dumps, lines)))
    assert logged_losses(tmp_path) == [3.0, 1.0]
    (tmp_path / "now" / "now.json").write_text(json.dumps({"coco/bbox_mAP": 0.25}))
    metrics = reported_metrics(tmp_path)
    table = as_table([Row("dino", "sparse", 3.0, 1.0, True, metrics)])
    assert "| dino | sparse | 3.00 | 1.00 | yes | 0.250 | - |" in table
    with pytest.raises(ValueError, match="holds no logged losses"):
        logged_losses(tmp_path / "elsewhere")
