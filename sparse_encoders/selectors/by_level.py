"""Selectors with a quota for each level (Salience DETR, Hou et al., CVPR 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparse_encoders.selectors.base import Selector
from sparse_encoders.selectors.keep import KeepSchedule
from sparse_encoders.selectors.quotas import LevelQuotas
from sparse_encoders.selectors.ranking import best_first, fill_with_lowest, rankable
from sparse_encoders.selectors.selection import GroupSelection, LayerSelection
from sparse_encoders.tokens import TokenGrid


class LevelSelector(Selector):
    """With quotas keeps the best tokens of each level, without them the best of all levels.

    With quotas, ``keep_ratio=None`` uses them unchanged; a number, or one for each layer, scales
    them (:meth:`LevelQuotas.at`).

    Args:
        *args, **kwargs: see :class:`Selector`. With quotas, ``cascade=False`` lets every layer
            take all that the levels keep.
        by_level: whether levels have quotas; None: the default of the class.
        level_ratios: share that each level keeps, finest first; None: 0.4, 0.8, 1, 1.
        layer_ratios: share of all levels' kept tokens that each layer takes; None: 1, 0.8, 0.6,
            0.6, 0.4, 0.2.

    Raises:
        ValueError: ratios of levels or layers without quotas; see also :class:`LevelQuotas` and
            :class:`Selector`.
    """

    default_by_level = False

    def __init__(
        self,
        *args: Any,
        by_level: bool | None = None,
        level_ratios: Sequence[float] | None = None,
        layer_ratios: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        self.by_level = self.default_by_level if by_level is None else by_level
        for name, ratios in (("level_ratios", level_ratios), ("layer_ratios", layer_ratios)):
            if ratios is not None and not self.by_level:
                raise ValueError(f"selector.{name} needs selector.by_level=True, got {ratios}")
        self._quota_settings = level_ratios, layer_ratios, kwargs.get("cascade") is not False
        super().__init__(*args, **kwargs)

    @property
    def quotas(self) -> LevelQuotas | None:
        """What each level and layer keeps before any keep ratio; None without quotas."""
        if not self.by_level:
            return None
        level_ratios, layer_ratios, cascade = self._quota_settings
        return LevelQuotas.of_config(
            level_ratios, layer_ratios, self.num_levels, self.num_layers, cascade
        )

    def make_schedule(self, keep_ratio: float | Sequence[float] | None) -> KeepSchedule:
        """The quotas scaled to a keep ratio; without quotas :meth:`Selector.make_schedule`."""
        quotas = self.quotas
        if quotas is None:
            return super().make_schedule(keep_ratio)
        return quotas if keep_ratio is None else quotas.at(keep_ratio)

    def top_k(self, scores: Tensor, tokens: TokenGrid, levels: range) -> GroupSelection:
        """Take the best tokens of each level, then rank those of all levels together.

        With numbers counted over the batch, padding has the lowest score of its level, as released:
        a layer may compute it as a query, but never keeps it. See :meth:`Selector.top_k`.
        """
        quotas, mask = self.active_schedule, tokens.padding_mask
        if not isinstance(quotas, LevelQuotas):
            return super().top_k(scores, tokens, levels)
        sizes, own = quotas.capacities(tokens, levels), quotas.level_counts(tokens, levels)
        limits = own.amax(0).expand_as(own) if self.counts_over_batch else own
        ranked = rank_by_level(scores, tokens, levels, sizes, limits, self.counts_over_batch)
        max_foreground, foreground = sum(sizes), own.sum(1)
        by_layer = quotas.layer_counts(max_foreground), quotas.layer_counts(limits.sum(1))
        allowed = None if mask is None else ~mask.gather(1, ranked)
        layers = LayerSelection.from_ranking(ranked, *by_layer, foreground, mask is None, allowed)
        return GroupSelection(levels, layers, foreground, max_foreground)


def rank_by_level(
    scores: Tensor,
    tokens: TokenGrid,
    levels: range,
    sizes: Sequence[int],
    limits: Tensor,
    over_batch: bool,
) -> Tensor:
    """(B, K) int64 token indices: the best of each level, ranked together.

    Args:
        scores: (B, N), NaN where a token has no score.
        tokens: the batch.
        levels: the levels to take from.
        sizes: number of tokens that each of these levels contributes, on the host; K is their sum.
        limits: (B, levels) int64, how many of these an image may keep; the others rank last.
        over_batch: True: padding ranks directly behind the lowest score of its level in the batch
            (as released, where their order is arbitrary), and equal scores rank as ``topk``
            returns them. False: padding ranks last, and equal scores rank by index.
    """
    unusable = tokens.unusable.squeeze(-1)
    indices, values = [], []
    for level, size, limit in zip(levels, sizes, limits.unbind(1), strict=True):
        if size == 0:
            continue
        part, padding = tokens.level_slices[level], tokens.padding_of(range(level, level + 1))
        ranks = scores[:, part]
        if over_batch and padding is not None:
            lowest = fill_with_lowest(ranks, padding, over_batch)
            below = lowest.nextafter(lowest.new_tensor(-torch.inf))  # a valid token ranks first
            ranks = torch.where(padding, below, ranks)
            padding = None
        ranks = rankable(ranks, padding)
        if over_batch:
            best = ranks.topk(size, dim=1).indices
        else:
            best = best_first(ranks, size, unusable[:, part])
        beyond = torch.arange(size, device=best.device) >= limit.unsqueeze(1)
        indices.append(best + part.start)
        values.append(ranks.gather(1, best).masked_fill(beyond, -torch.inf))
    joined, ranks = torch.cat(indices, 1), torch.cat(values, 1)
    if over_batch:
        order = ranks.sort(dim=1, descending=True, stable=True).indices
    else:
        order = best_first(ranks, joined.shape[1], unusable.gather(1, joined))
    return joined.gather(1, order)
