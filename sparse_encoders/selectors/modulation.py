"""Scores computed level by level, where each level modulates the next (Focus-DETR, equation 2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from sparse_encoders.selectors.learned import ScoreMLP
from sparse_encoders.shapes import split_dim
from sparse_encoders.tokens import TokenGrid

MODULATION_PLACES = ("before_norm", "after_norm")


def check_modulation_place(place: str, modulates: bool) -> None:
    """Check a selector's ``modulation_place``.

    Raises:
        ValueError: an unknown value, or 'after_norm' without a modulation.
    """
    if place not in MODULATION_PLACES:
        raise ValueError(f"modulation_place must be one of {MODULATION_PLACES}, got {place!r}")
    if place != MODULATION_PLACES[0] and not modulates:
        raise ValueError(
            f"modulation_place={place!r} needs a modulation and at least two feature levels; "
            f"leave it at {MODULATION_PLACES[0]!r} where no level modulates another"
        )


def modulated_scores(
    z: Tensor,
    tokens: TokenGrid,
    score_mlp: ScoreMLP,
    levels: Sequence[int],
    steps: Tensor | None,
    place: str = "before_norm",
) -> Tensor:
    """(B, N) logits.

    Args:
        z: (B, N, C) projected tokens.
        tokens: the batch, for the shapes of its levels.
        score_mlp: gives the logits of a level.
        levels: every level, in the order in which they are scored.
        steps: one coefficient for each step to a next level, in the same order; None: no
            modulation.
        place: see :class:`FocusTokenSelector`.
    """
    logits: dict[int, Tensor] = {}
    previous: Tensor | None = None
    for step, level in enumerate(levels):
        z_level, factor = z[:, tokens.level_slices[level]], None
        if previous is not None and steps is not None:
            # raw logits, resampled to this level
            up = F.interpolate(
                previous, size=tokens.shapes[level], mode="bilinear", align_corners=True
            )
            factor = 1.0 + steps[step - 1] * up.flatten(2).transpose(1, 2)
            if place == "before_norm":
                z_level, factor = z_level * factor, None
        logits[level] = score_mlp(z_level, factor)
        previous = split_dim(logits[level], 1, tokens.shapes[level]).unsqueeze(1)
    return torch.cat([logits[level] for level in range(tokens.num_levels)], 1)
