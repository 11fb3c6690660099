"""The checks against released implementations pass, and can fail."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reference import all_checks
from reference.checks import close, equal, same_sets, verify
from reference.focus import build_focus_encoder
from reference.parts import fixture_tokens
from reference.seeded import seeded, uniform

FIXTURES = Path(__file__).parents[1] / "fixtures"
TOOL = Path(__file__).parents[2] / "tools" / "verify_reference.py"
all_checks()


def altered(name, tmp_path, **changes):
    with np.load(FIXTURES / name) as archive:
        data = {k: archive[k] for k in archive.files}
    data.update({k: change(data[k]) for k, change in changes.items()})
    path = tmp_path / name
    np.savez(path, **data)
    return path


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.npz")), ids=lambda p: p.stem)
def test_fixtures_agree(path):
    results = verify(path)
    assert results
    assert [c for c in results if not c.passed] == []


@pytest.mark.parametrize(
    ("name", "field", "change"),
    [
        ("focus_detr_encoder.npz", "memory", lambda x: x * 1.001),
        ("focus_detr_encoder.npz", "foreground_score", lambda x: x + 0.001),
        ("focus_detr_encoder.npz", "num_foreground", lambda x: x + 1),
        ("focus_detr_labels.npz", "released.label", lambda x: ~x),
        ("salience_detr_encoder.npz", "memory", lambda x: x * 1.001),
        ("salience_detr_encoder.npz", "foreground_index_layer2", lambda x: x[:, ::-1] * 0),
        ("salience_detr_encoder.npz", "num_foreground", lambda x: x + 1),
        ("salience_detr_labels.npz", "released.label", lambda x: x + 2e-5),
        ("salience_detr_labels.npz", "released.loss", lambda x: x * 1.0001),
        ("hybrid_encoder.npz", "memory", lambda x: x * 1.001),
        ("hybrid_encoder.npz", "position_of_coarsest", lambda x: x[::-1]),
        ("dn_loss.npz", "loss_cls", lambda x: x * 1.001),
        ("dn_loss.npz", "loss_bbox", lambda x: x[::-1]),
        ("dn_loss.npz", "loss_iou", lambda x: x * 0.999),
    ],
)
def test_a_difference_is_seen(name, field, change, tmp_path):
    failed = [c.name for c in verify(altered(name, tmp_path, **{field: change})) if not c.passed]
    assert failed == [field]


FOCUS = dict(
    levels=((12, 16), (6, 8), (3, 4), (2, 2)), fractions=((0.8, 0.6), (0.5, 0.9)), ratio=0.5
)


def released_numbers_of_a_small_batch(tmp_path):
    """A fixture whose batch has no image that fills the grid.

    The numbers are those of our encoder on a grid that does not say how many tokens the
    largest image has; the index arrays are as wide as the released code makes them, which
    counts from that image.
    """
    with np.load(FIXTURES / "focus_detr_encoder.npz") as archive:
        data = {k: archive[k] for k in archive.files}
    config = json.loads(str(data["config"]))
    config.update(spatial_shapes=FOCUS["levels"], valid_fraction_hw=FOCUS["fractions"])
    config.update(keep_ratio=FOCUS["ratio"], topk_self_attention=20)
    total = sum(h * w for h, w in FOCUS["levels"])
    data["config"] = np.array(json.dumps(config))
    data["memory_token_index"] = np.arange(0, total, 3)
    encoder, detector, level_embed = build_focus_encoder(data, config)
    grid = replace(fixture_tokens(config, level_embed), max_valid=None)
    with torch.no_grad():
        output = encoder(grid, detector)
    valid = grid.num_valid()
    counts = (valid * config["keep_ratio"]).int() + 1
    assert valid.max() < total
    data["foreground_score"] = output.selection.scores.numpy()
    data["num_foreground"] = counts.numpy()
    data["memory"] = output.memory[:, data["memory_token_index"]].numpy()
    ranked = output.selection.scores.masked_fill(grid.padding_mask, -torch.inf)
    for index, share in enumerate(config["cascade"]):
        width = int(torch.tensor(share) * counts.max())
        data[f"foreground_index_layer{index}"] = ranked.topk(width).indices.numpy()
    path = tmp_path / "small_batch.npz"
    np.savez(path, **data)
    return path


def test_a_batch_in_which_no_image_fills_the_grid(tmp_path):
    """Index arrays are as wide as the batch's largest image makes them, as in a detector."""
    path = released_numbers_of_a_small_batch(tmp_path)
    results = {check.name: check for check in verify(path)}
    assert {"foreground_score", "num_foreground", "memory"} < set(results)
    assert sum(name.startswith("foreground_index_layer") for name in results) > 1
    assert [check for check in results.values() if not check.passed] == []
    with np.load(path) as archive:
        data = {k: archive[k] for k in archive.files}
    name = "foreground_index_layer0"
    data[name] = data[name][:, :-1]
    np.savez(path, **data)
    assert [c.name for c in verify(path) if not c.passed] == [name]


def test_another_seed_fails(tmp_path):
    def reseed(config):
        return np.array(json.dumps({**json.loads(str(config)), "seed": 12}))

    results = verify(altered("focus_detr_encoder.npz", tmp_path, config=reseed))
    assert not any(c.passed for c in results if c.name in ("memory", "foreground_score"))


def test_denoising_losses_of_other_batches(tmp_path):
    """Two layers, three groups: loss by hand of one image, and of one without boxes beside it."""
    u = uniform("boxes", (1, 1, 1, 4), 3)[0, 0, 0]
    box = np.array([0.2 + 0.6 * u[0], 0.2 + 0.6 * u[1], 0.05 + 0.35 * u[2], 0.05 + 0.35 * u[3]])
    p = 1 / (1 + np.exp(4 - 8 * uniform("logits", (1, 1, 1, 2), 3)[0, 0, 0]))
    focal = -0.25 * (1 - p[1]) ** 2 * np.log(p[1]) - 0.75 * p[0] ** 2 * np.log(1 - p[0])
    config = dict(seed=3, groups=1, boxes_per_image=[1], num_classes=2, layers=1)
    losses = dict(labels_image0=np.array([1]), boxes_image0=(box + np.eye(4)[0] * 0.1)[None])
    losses |= dict(loss_cls=np.array([focal]), loss_bbox=np.array([0.1]))
    inside = max(0.0, box[2] - 0.1) / (box[2] + 0.1)  # both have the same height
    hull = 0.0 if box[2] > 0.1 else (0.1 - box[2]) / (0.1 + box[2])
    losses |= dict(loss_iou=np.array([1 - inside + hull]))
    for extra in (0, 1):
        if extra:  # its padding query must not count
            config["boxes_per_image"] = [1, 0]
            losses |= dict(labels_image1=np.zeros(0, int), boxes_image1=np.zeros((0, 4)))
            logits = uniform("logits", (1, 2, 1, 2), 3)[0, 0, 0]
            assert (logits == uniform("logits", (1, 1, 1, 2), 3)[0, 0, 0]).all()
        path = tmp_path / f"{extra}.npz"
        np.savez(path, kind="dn_loss", config=json.dumps(config), **losses)
        assert [c for c in verify(path) if not c.passed] == []


def test_ties_may_swap_and_nothing_else():
    scores = torch.tensor([[3.0, 2.0, 1.0, 1.0, 0.0]])
    expected = np.array([[0, 1, 2]])
    assert same_sets("x", torch.tensor([[1, 0, 3]]), expected, scores).passed
    assert not same_sets("x", torch.tensor([[1, 0, 4]]), expected, scores).passed


def test_shapes_must_agree():
    assert not close("x", torch.zeros(2), np.zeros(3)).passed
    assert not equal("x", torch.zeros(2), np.zeros(3)).passed


def test_values_by_name():
    assert (uniform("a", (4,), 0) != uniform("b", (4,), 0)).all()
    assert (uniform("a", (4,), 0) != uniform("a", (4,), 1)).all()
    alpha = seeded("encoder.alpha", (3,), 1)
    assert alpha.dtype == np.float32
    assert (np.abs(alpha) <= 0.3).all()
    assert seeded("bn.num_batches_tracked", (), 0) == 0
    assert (seeded("bn.running_var", (50,), 0) >= 0.5).all()


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


def test_the_tool_reports_failure_by_its_exit_status(tmp_path, capsys, monkeypatch):
    good = FIXTURES / "focus_detr_labels.npz"
    bad = altered("focus_detr_labels.npz", tmp_path, **{"released.label": lambda x: ~x})
    for path, status, line in ((good, 0, "PASS: 0 failed"), (bad, 1, "FAIL: 1 failed")):
        monkeypatch.setattr(sys, "argv", ["verify_reference.py", str(path)])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(TOOL), run_name="__main__")
        assert stopped.value.code == status
        assert line in capsys.readouterr().out


def test_the_tool_without_the_tests_folder(tmp_path, capsys, monkeypatch):
    """Beside an installed wheel: one sentence that says what is missing, no traceback."""
    tool = tmp_path / "tools" / TOOL.name
    tool.parent.mkdir()
    shutil.copy(TOOL, tool)
    monkeypatch.setattr(sys, "argv", ["verify_reference.py", "x.npz"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(tool), run_name="__main__")
    assert stopped.value.code == 2
    missing = tmp_path / "tests" / "reference"
    assert f"error: {missing}, which holds the checks, is missing" in capsys.readouterr().err
