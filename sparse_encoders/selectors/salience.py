"""Salience DETR's token selector (Hou et al., CVPR 2024, sections 3.1 and 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparse_encoders.contracts import DetectorParts, Targets
from sparse_encoders.registry import MODELS
from sparse_encoders.selectors.by_level import LevelSelector
from sparse_encoders.selectors.learned import LearnedSelector
from sparse_encoders.selectors.modulation import check_modulation_place, modulated_scores
from sparse_encoders.selectors.selection import Selection
from sparse_encoders.supervision.foreground import Intervals
from sparse_encoders.supervision.salience import SalienceLabels, salience_loss
from sparse_encoders.tokens import TokenGrid


@MODELS.register_module()
class SalienceTokenSelector(LearnedSelector, LevelSelector):
    """Soft salience scores, modulated top-down, with a quota for each level.

    Args:
        *args, **kwargs: see :class:`LevelSelector` and :class:`LearnedSelector`. With
            ``count='batch'``, as released, each level contributes as many tokens of every image as
            of the batch's largest image.
        keep_ratio: None: the quotas unchanged (released). A number, or one for each
            layer, scales them, see :meth:`LevelQuotas.at`.
        intervals: see :class:`SalienceLabels`; None: the same targets on every level, as described
            in the paper's abstract.
        loss_weight: weight of ``loss_salience``.
        modulation_place: see :class:`FocusTokenSelector`.

    Raises:
        ValueError: a ratio outside (0, 1], layer ratios that increase, a list that does not
            match levels or layers, an unknown value of a setting.
    """

    default_cascade = True
    default_by_level = True

    def __init__(
        self,
        *args: Any,
        keep_ratio: float | Sequence[float] | None = None,
        intervals: str | Intervals | None = "non_overlapping",
        loss_weight: float = 2.0,
        modulation_place: str = "before_norm",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, keep_ratio=keep_ratio, loss_weight=loss_weight, **kwargs)
        check_modulation_place(modulation_place, self.num_levels > 1)
        self.modulation_place = modulation_place
        self.labels = SalienceLabels(self.num_levels, intervals)
        # one coefficient for each level that a coarser one modulates, finest first
        self.alpha = nn.Parameter(torch.empty(self.num_levels - 1).uniform_(-0.3, 0.3))

    def score(self, tokens: TokenGrid, detector: DetectorParts) -> Tensor:
        """(B, N) salience logits, computed from the coarsest level to the finest."""
        z = self.project(tokens, detector)
        levels, steps = tokens.all_levels[::-1], self.alpha.flip(0)
        return modulated_scores(z, tokens, self.score_mlp, levels, steps, self.modulation_place)

    def loss(self, selection: Selection, tokens: TokenGrid, targets: Targets) -> dict[str, Tensor]:
        """``loss_salience``, a scalar; see :meth:`Selector.loss`."""
        loss = salience_loss(selection.logits, self.labels(tokens, targets.boxes))
        return {"loss_salience": self.loss_weight * loss}
