"""The checks of Sparse DETR's fixtures see differences and do not see ties."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from reference import all_checks
from reference.checks import verify

FIXTURES = Path(__file__).parents[1] / "fixtures"
all_checks()


def altered(name, tmp_path, **changes):
    with np.load(FIXTURES / name) as archive:
        data = {k: archive[k] for k in archive.files}
    data.update({k: change(data[k]) for k, change in changes.items()})
    path = tmp_path / name
    np.savez(path, **data)
    return path


def failing(path):
    return [check.name for check in verify(path) if not check.passed]


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("score", lambda x: x + 0.001),
        ("num_kept", lambda x: x - 1),
        ("memory", lambda x: x * 1.001),
        ("aux_cls_logits", lambda x: x[:, :, ::-1]),
        ("aux_boxes", lambda x: x + 0.001),
    ],
)
def test_encoder_differences_are_seen(field, change, tmp_path):
    assert failing(altered("sparse_detr_encoder.npz", tmp_path, **{field: change})) == [field]


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("dam", lambda x: x[::-1]),
        ("loss", lambda x: x * 1.01),
        ("corr", lambda x: x * 0.99),
        ("target", lambda x: ~x),
    ],
)
def test_map_differences_are_seen(field, change, tmp_path):
    assert field in failing(altered("sparse_detr_dam.npz", tmp_path, **{field: change}))


def test_settings_are_followed(tmp_path):
    """Another ratio keeps another number of tokens."""

    def halve(config):
        actual = json.loads(str(config))
        return np.array(json.dumps({**actual, "keep_ratio": actual["keep_ratio"] / 2}))

    failed = failing(altered("sparse_detr_encoder.npz", tmp_path, config=halve))
    assert "num_kept" in failed and "score" not in failed


def test_tokens_that_nobody_looked_at_tie(tmp_path):
    """With one query, most positives have no attention; which of them is arbitrary."""
    with np.load(FIXTURES / "sparse_detr_dam.npz") as archive:
        data = {k: archive[k] for k in archive.files}
    import torch

    from sparse_encoders.supervision.decoder_attention import decoder_attention_map

    shapes = json.loads(str(data["config"]))["spatial_shapes"]
    for name in ("sampling_locations", "attention_weights"):
        data[name] = data[name][:, :, :1]
    attention = decoder_attention_map(
        torch.from_numpy(data["sampling_locations"]),
        torch.from_numpy(data["attention_weights"]),
        [tuple(s) for s in shapes],
    ).numpy()
    target = np.zeros_like(data["target"])
    for image, count in enumerate(data["num_kept"]):
        rank = np.where(data["padding_mask"][image], -1.0, attention[image])
        # ties from the end, unlike any stable sort from the start
        order = np.lexsort((np.arange(len(rank))[::-1], -rank))
        target[image, order[:count]] = True
    data.update(dam=attention, target=target)
    path = tmp_path / "few.npz"
    np.savez(path, **data)
    assert set(failing(path)) <= {"loss", "corr"}
