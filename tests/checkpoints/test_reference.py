"""The checks against released implementations pass, and can fail."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from reference.checks import close, equal, same_sets, verify
from sparse_encoders.supervision.decoder_attention import decoder_attention_map

FIXTURES = Path(__file__).parents[1] / "fixtures"
TOOL = Path(__file__).parents[2] / "tools" / "verify_reference.py"


def load(name):
    with np.load(FIXTURES / name) as archive:
        return {k: archive[k] for k in archive.files}


def altered(name, tmp_path, **changes):
    data = load(name)
    path = tmp_path / "altered.npz"
    np.savez(path, **{**data, **{k: change(data[k]) for k, change in changes.items()}})
    return path


def failing(path):
    return [check.name for check in verify(path) if not check.passed]


def settings(**changes):
    """Changes a fixture's config."""
    return lambda config: np.array(json.dumps({**json.loads(str(config)), **changes}))


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.npz")), ids=lambda p: p.stem)
def test_fixtures_agree(path):
    results = verify(path)
    assert results
    assert [c for c in results if not c.passed] == []


@pytest.mark.parametrize(
    ("name", "field", "change"),
    [
        ("focus_detr_encoder", "memory", lambda x: x * 1.001),
        ("focus_detr_encoder", "foreground_score", lambda x: x + 0.001),
        ("focus_detr_encoder", "num_foreground", lambda x: x + 1),
        ("focus_detr_labels", "released.label", lambda x: ~x),
        ("salience_detr_encoder", "memory", lambda x: x * 1.001),
        ("salience_detr_encoder", "foreground_index_layer2", lambda x: x[:, ::-1] * 0),
        ("salience_detr_encoder", "num_foreground", lambda x: x + 1),
        ("salience_detr_labels", "released.label", lambda x: x + 2e-5),
        ("salience_detr_labels", "released.loss", lambda x: x * 1.0001),
        ("hybrid_encoder", "memory", lambda x: x * 1.001),
        ("hybrid_encoder", "position_of_coarsest", lambda x: x[::-1]),
        ("dn_loss", "loss_cls", lambda x: x * 1.001),
        ("dn_loss", "loss_bbox", lambda x: x[::-1]),
        ("dn_loss", "loss_iou", lambda x: x * 0.999),
        ("sparse_detr_encoder", "score", lambda x: x + 0.001),
        ("sparse_detr_encoder", "num_kept", lambda x: x - 1),
        ("sparse_detr_encoder", "memory", lambda x: x * 1.001),
        ("sparse_detr_encoder", "aux_cls_logits", lambda x: x[:, :, ::-1]),
        ("sparse_detr_encoder", "aux_boxes", lambda x: x + 0.001),
        ("sparse_detr_dam", "dam", lambda x: x[::-1]),
        ("sparse_detr_dam", "loss", lambda x: x * 1.01),
        ("sparse_detr_dam", "corr", lambda x: x * 0.99),
        ("sparse_detr_dam", "target", lambda x: ~x),
    ],
)
def test_a_difference_is_seen(name, field, change, tmp_path):
    failed = failing(altered(f"{name}.npz", tmp_path, **{field: change}))
    # what is computed from the decoder's map differs with it
    assert field in failed and (name == "sparse_detr_dam" or len(failed) == 1)


def test_settings_are_followed(tmp_path):
    other = failing(altered("focus_detr_encoder.npz", tmp_path, config=settings(seed=12)))
    assert {"memory", "foreground_score"} <= set(other)
    ratio = json.loads(str(load("sparse_detr_encoder.npz")["config"]))["keep_ratio"]
    half = settings(keep_ratio=ratio / 2)
    fewer = failing(altered("sparse_detr_encoder.npz", tmp_path, config=half))
    assert "num_kept" in fewer and "score" not in fewer


def test_tokens_that_nobody_looked_at_tie(tmp_path):
    """With one query, most positives have no attention; which of them is arbitrary."""
    data = load("sparse_detr_dam.npz")
    shapes = json.loads(str(data["config"]))["spatial_shapes"]
    for name in ("sampling_locations", "attention_weights"):
        data[name] = data[name][:, :, :1]
    given = [torch.from_numpy(data[n]) for n in ("sampling_locations", "attention_weights")]
    attention = decoder_attention_map(*given, [tuple(s) for s in shapes]).numpy()
    target = np.zeros_like(data["target"])
    for image, count in enumerate(data["num_kept"]):
        rank = np.where(data["padding_mask"][image], -1.0, attention[image])
        # ties from the end, unlike any stable sort from the start
        order = np.lexsort((np.arange(len(rank))[::-1], -rank))
        target[image, order[:count]] = True
    np.savez(tmp_path / "few.npz", **{**data, "dam": attention, "target": target})
    assert set(failing(tmp_path / "few.npz")) <= {"loss", "corr"}


def test_comparisons():
    """Ties may swap and nothing else; shapes must agree."""
    scores = torch.tensor([[3.0, 2.0, 1.0, 1.0, 0.0]])
    expected = np.array([[0, 1, 2]])
    assert same_sets("x", torch.tensor([[1, 0, 3]]), expected, scores).passed
    assert not same_sets("x", torch.tensor([[1, 0, 4]]), expected, scores).passed
    assert not close("x", torch.zeros(2), np.zeros(3)).passed
    assert not equal("x", torch.zeros(2), np.zeros(3)).passed


def test_files_that_are_no_fixtures(tmp_path):
    text = tmp_path / "text.npz"
    text.write_text("not an archive")
    with pytest.raises(ValueError, match="cannot be read as a reference fixture"):
        verify(text)
    np.savez(tmp_path / "bare.npz", x=np.zeros(1))
    with pytest.raises(ValueError, match="has no 'kind' and 'config'"):
        verify(tmp_path / "bare.npz")
    np.savez(tmp_path / "kind.npz", kind="sculpture", config="{}")
    with pytest.raises(ValueError, match="of kind 'sculpture'; there are checks for"):
        verify(tmp_path / "kind.npz")


def test_the_tool_reports_failure_by_its_exit_status(tmp_path, capsys, run_tool):
    good = FIXTURES / "focus_detr_labels.npz"
    bad = altered("focus_detr_labels.npz", tmp_path, **{"released.label": lambda x: ~x})
    for path, status, line in ((good, 0, "PASS: 0 failed"), (bad, 1, "FAIL: 1 failed")):
        assert run_tool("verify_reference.py", path) == status
        assert line in capsys.readouterr().out


def test_the_tool_without_the_tests_folder(tmp_path, capsys, run_tool):
    """Beside an installed wheel: one sentence that says what is missing, no traceback."""
    tool = tmp_path / "tools" / TOOL.name
    tool.parent.mkdir()
    shutil.copy(TOOL, tool)
    assert run_tool(tool, "x.npz") == 2
    missing = tmp_path / "tests" / "reference"
    assert f"error: {missing}, which holds the checks, is missing" in capsys.readouterr().err
