"""Focus-DETR's foreground token selector (Zheng et al., ICCV 2023, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparse_encoders.contracts import DetectorParts, Targets
from sparse_encoders.registry import MODELS
from sparse_encoders.selectors.learned import LearnedSelector
from sparse_encoders.selectors.modulation import check_modulation_place, modulated_scores
from sparse_encoders.selectors.selection import Selection
from sparse_encoders.supervision.foreground import (
    ForegroundLabels,
    Intervals,
    foreground_focal_loss,
)
from sparse_encoders.tokens import TokenGrid

MODULATIONS = ("top_down", "bottom_up", None)


@MODELS.register_module()
class FocusTokenSelector(LearnedSelector):
    """Foreground scores, supervised by boxes and modulated from level to level.

    The score MLP gives a logit for each token, level by level, and each level's logit map
    modulates the next one (equation 2): ``z_l <- z_l * (1 + alpha_l * UP(S_{l+1}))``.

    Args:
        *args, **kwargs: see :class:`LearnedSelector`. A number as ``keep_ratio`` is an average
            (Table 1 of the supplement has the cascades of 0.1 to 0.5); ``cascade=False`` keeps
            the same share in every layer (Table 4's ablation).
        modulation: 'top_down' (paper), 'bottom_up' or None (Table 5).
        modulation_place: where the factor of equation 2 is applied: 'before_norm' (released), to
            the input of the score MLP's LayerNorm, which divides the factor out again except
            for its sign and the epsilon; or 'after_norm', to the output of that LayerNorm.
        supervised: False leaves the scores without a loss (ablation).
        intervals: 'non_overlapping' (released), 'overlapping' (the paper's
            best, supplement's Table 2), or a (low, high) pair for each level.
        strides: pixels between the tokens of each level.
        loss_weight: weight of the foreground loss (1.5 in section 4.1).

    Raises:
        ValueError: an unknown value of a setting, or intervals or strides that do not match
            the levels.
    """

    default_cascade = True

    def __init__(
        self,
        *args: Any,
        modulation: str | None = "top_down",
        modulation_place: str = "before_norm",
        supervised: bool = True,
        intervals: str | Intervals = "non_overlapping",
        strides: Sequence[int] | None = None,
        loss_weight: float = 1.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, loss_weight=loss_weight, **kwargs)
        if modulation not in MODULATIONS:
            raise ValueError(f"modulation must be one of {MODULATIONS}, got {modulation!r}")
        check_modulation_place(modulation_place, modulation is not None and self.num_levels > 1)
        self.modulation = modulation
        self.modulation_place = modulation_place
        self.supervised = supervised
        self.labels = ForegroundLabels(self.num_levels, intervals, strides)
        if modulation is not None:
            # one coefficient for each step between levels (section 3.2)
            self.alpha = nn.Parameter(torch.empty(self.num_levels - 1).uniform_(-0.3, 0.3))

    def score(self, tokens: TokenGrid, detector: DetectorParts) -> Tensor:
        """(B, N) foreground logits (equation 2); see :meth:`Selector.score`."""
        z = self.project(tokens, detector)
        levels = list(range(tokens.num_levels))
        if self.modulation != "bottom_up":
            levels.reverse()
        # one coefficient for each step, in the order of the steps
        steps = None if self.modulation is None else self.alpha
        return modulated_scores(z, tokens, self.score_mlp, levels, steps, self.modulation_place)

    def loss(self, selection: Selection, tokens: TokenGrid, targets: Targets) -> dict[str, Tensor]:
        """``loss_foreground`` (equation 7), a scalar; see :meth:`Selector.loss`.

        Without supervision it is zero, but still a function of every parameter, because
        distributed training waits for a gradient of each.
        """
        if not self.supervised:
            return {"loss_foreground": selection.logits.sum() * 0.0}
        labels = self.labels(tokens, targets.boxes)
        loss = foreground_focal_loss(selection.logits, labels)
        return {"loss_foreground": self.loss_weight * loss.mean()}
