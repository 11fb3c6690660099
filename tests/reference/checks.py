"""What a check of a reference fixture is, and the comparisons that all checks use.

A fixture is an ``.npz`` that says its ``kind`` and ``config`` and holds what a
reference model gave. Each kind has one check; ``tools/verify_reference.py`` runs
them by file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TOLERANCE = 1e-4  # relative, float32
TIE = 1e-6  # of the scores' range


@dataclass(frozen=True)
class Check:
    """One compared quantity, whether it agrees, and the difference that was seen, for people."""

    name: str
    passed: bool
    detail: str


Fixture = Mapping[str, NDArray[Any]]
# the file here that has a kind's check, as check_KIND(fixture, config)
KINDS = {
    "decoder_attention_map": "sparse",
    "dn_loss": "denoising",
    "focus_encoder": "focus",
    "foreground_labels": "focus",
    "hybrid_encoder": "hybrid",
    "key_aware_attention": "key_aware",
    "lite_encoders": "lite",
    "model": "model",
    "salience_encoder": "salience",
    "salience_labels": "salience",
    "sparse_encoder": "sparse",
}


def verify(path: str | Path) -> list[Check]:
    """All comparisons of one fixture file.

    Raises:
        ValueError: the file is no fixture, or of a kind without a check.
    """
    try:
        with np.load(path) as archive:
            fixture = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as a reference fixture: {error}") from error
    if "kind" not in fixture or "config" not in fixture:
        raise ValueError(f"{path} has no 'kind' and 'config': it is not a reference fixture")
    kind = str(fixture["kind"])
    if kind not in KINDS:
        raise ValueError(f"{path} is of kind {kind!r}; there are checks for {sorted(KINDS)}")
    check = getattr(import_module(f"reference.{KINDS[kind]}"), f"check_{kind}")
    with torch.no_grad():
        results: list[Check] = check(fixture, json.loads(str(fixture["config"])))
    return results


def close(name: str, ours: Tensor, reference: NDArray[Any], tolerance: float = TOLERANCE) -> Check:
    """Largest difference over the reference's largest magnitude."""
    expected = torch.from_numpy(np.asarray(reference)).double()
    if ours.shape != expected.shape:
        return equal(name, ours, reference)
    scale = expected.abs().max().clamp(min=1e-12)
    error = float((ours.double() - expected).abs().max() / scale)
    return Check(name, error <= tolerance, f"relative difference {error:.1e}")


def equal(name: str, ours: Tensor, reference: NDArray[Any]) -> Check:
    """Exactly the same values in the same shape."""
    expected = torch.from_numpy(np.asarray(reference))
    if ours.shape != expected.shape:
        return Check(name, False, f"shape {tuple(ours.shape)}, expected {tuple(expected.shape)}")
    different = int((ours.long() != expected.long()).sum())
    return Check(name, different == 0, f"{different} of {expected.numel()} differ")


def same_sets(name: str, ours: Tensor, reference: NDArray[Any], scores: Tensor) -> Check:
    """(B, K) index sets that agree but for ties in (B, N) ``scores``.

    An index may be swapped for another only where both score the same as the
    last one kept, within ``TIE``.
    """
    expected = torch.from_numpy(np.asarray(reference))
    if ours.shape != expected.shape:
        return equal(name, ours, reference)
    swapped, wrong = 0, 0
    for mine, theirs, score in zip(ours, expected, scores, strict=True):
        odd = set(mine.tolist()) ^ set(theirs.tolist())
        last = score[theirs].min()
        slack = TIE * (score.max() - score.min()).clamp(min=1e-12)
        swapped += len(odd)
        wrong += sum(bool((score[i] - last).abs() > slack) for i in odd)
    return Check(name, wrong == 0, f"{swapped} swapped, {wrong} of them not by a tie")
