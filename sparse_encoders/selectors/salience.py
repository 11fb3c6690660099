"""Salience DETR's token selector (Hou et al., CVPR 2024, sections 3.1 and 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparse_encoders.contracts import DetectorParts, Targets
from sparse_encoders.registry import MODELS
from sparse_encoders.selectors.by_level import LevelSelector
from sparse_encoders.selectors.modulation import check_modulation_place, modulated_scores
from sparse_encoders.selectors.projection import TokenProjection, project_tokens
from sparse_encoders.selectors.quotas import LevelQuotas
from sparse_encoders.selectors.score_mlp import ScoreMLP
from sparse_encoders.selectors.selection import Selection
from sparse_encoders.supervision.foreground import Intervals
from sparse_encoders.supervision.salience import SalienceLabels, salience_loss
from sparse_encoders.tokens import TokenGrid


@MODELS.register_module()
class SalienceTokenSelector(LevelSelector):
    """Soft salience scores, modulated top-down; every level has a quota of its own.

    Args:
        num_layers, num_levels, embed_dims, first_stage: set by the encoder.
        keep_ratio: None: the quotas as they are (released). A number or one for each
            layer scales them, see :meth:`LevelQuotas.at`.
        cascade: False: every layer takes all that the levels keep.
        count, test_count: see :class:`Selector`. 'batch', the released way: a level gives
            the share of the batch's largest image from every image.
        train_keep_ratio: see :class:`Selector`.
        level_ratios: share that each level keeps, finest first; None: 0.4, 0.8, 1, 1.
        layer_ratios: share of those that each layer takes; None: 1, 0.8, 0.6, 0.6, 0.4, 0.2.
        intervals: see :class:`SalienceLabels`; None: targets of every level alike, as the
            paper's abstract has it.
        loss_weight: weight of ``loss_salience``.
        modulation_place: see :class:`FocusTokenSelector`.

    Raises:
        ValueError: a ratio outside (0, 1], layer ratios that increase, a list that does not
            match levels or layers, an unknown switch.
    """

    default_cascade = True

    def __init__(
        self,
        num_layers: int = 6,
        num_levels: int = 4,
        embed_dims: int = 256,
        keep_ratio: float | Sequence[float] | None = None,
        cascade: bool | None = None,
        count: str = "batch",
        level_ratios: Sequence[float] | None = None,
        layer_ratios: Sequence[float] | None = None,
        intervals: str | Intervals | None = "non_overlapping",
        loss_weight: float = 2.0,
        modulation_place: str = "before_norm",
        first_stage: bool = True,
        test_count: str = "image",
        train_keep_ratio: Sequence[float] | None = None,
    ) -> None:
        self.quotas = LevelQuotas.of_config(
            level_ratios, layer_ratios, num_levels, num_layers, cascade is not False
        )
        super().__init__(
            num_layers,
            num_levels,
            embed_dims,
            keep_ratio,
            cascade,
            count,
            first_stage,
            test_count,
            train_keep_ratio,
        )
        check_modulation_place(modulation_place, num_levels > 1)
        if loss_weight < 0:
            raise ValueError(f"loss_weight must not be negative, got {loss_weight}")
        self.modulation_place = modulation_place
        self.loss_weight = loss_weight
        self.labels = SalienceLabels(num_levels, intervals)
        self.score_mlp = ScoreMLP(embed_dims)
        self.projection = None if first_stage else TokenProjection(embed_dims)
        # of each level that a coarser one modulates, the finest first
        self.alpha = nn.Parameter(torch.empty(num_levels - 1).uniform_(-0.3, 0.3))

    def score(self, tokens: TokenGrid, detector: DetectorParts) -> Tensor:
        """(B, N) salience logits, from the coarsest level to the finest."""
        z = project_tokens(tokens, self.projection, detector.projection, type(self).__name__)
        levels, steps = tokens.all_levels[::-1], self.alpha.flip(0)
        return modulated_scores(z, tokens, self.score_mlp, levels, steps, self.modulation_place)

    def loss(self, selection: Selection, tokens: TokenGrid, targets: Targets) -> dict[str, Tensor]:
        """``loss_salience``, a scalar."""
        loss = salience_loss(selection.logits, self.labels(tokens, targets.boxes))
        return {"loss_salience": self.loss_weight * loss}
