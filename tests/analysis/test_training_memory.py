"""Training steps are measured with and without checkpointed layers."""

import pytest

from hosts import host_config
from sparse_encoders.analysis import training_memory
from sparse_encoders.analysis.training_memory import as_records, measure_training, table
from tiny import build


@pytest.fixture
def _tiny(monkeypatch):
    def detector(name, keep_ratio, backend):
        assert name == "dense" and keep_ratio == 0.3 and backend == "auto"
        return build(host_config("DINO")).eval()

    monkeypatch.setattr(training_memory, "detector_with", detector)


@pytest.mark.usefixtures("_tiny")
def test_measured():
    said = []
    rows = measure_training(["dense"], (64, 96), num_cps=(0, 2), repeats=1, progress=said.append)
    assert [(row.encoder, row.num_cp) for row in rows] == [("dense", 0), ("dense", 2)]
    for row in rows:
        assert 0 < row.fastest <= row.seconds <= row.slowest
        assert row.peak_mib is None or row.peak_mib >= 0
    assert said[-1] == "dense: round 1 of 1"
    lines = table(rows).splitlines()
    assert len(lines) == 4 and lines[2].startswith("| dense | 0 |") and lines[2].endswith("1.00 |")
    assert as_records(rows)[1]["num_cp"] == 2


@pytest.mark.usefixtures("_tiny")
@pytest.mark.parametrize("num_cps", [(3,), (-1, 0), ()])
def test_more_layers_than_there_are(num_cps):
    with pytest.raises(ValueError, match="num_cps must be some of 0 to 2 layers, got"):
        measure_training(["dense"], (64, 96), num_cps=num_cps)
