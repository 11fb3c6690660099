"""Selectors whose levels have quotas of their own (Salience DETR, Hou et al., CVPR 2024)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sparse_encoders.selectors.base import Selector
from sparse_encoders.selectors.keep import KeepSchedule
from sparse_encoders.selectors.level_ranking import rank_by_level
from sparse_encoders.selectors.quotas import LevelQuotas
from sparse_encoders.selectors.selection import GroupSelection, LayerSelection
from sparse_encoders.tokens import TokenGrid


class LevelSelector(Selector):
    """Keeps the best of each level, where it has quotas, and of all levels together, where not.

    A subclass sets :attr:`quotas` before it calls this constructor, which makes the schedule of
    them; the arguments are :class:`Selector`'s. With quotas, a ``keep_ratio`` of None leaves them
    as they are, and a number or one for each layer scales them (:meth:`LevelQuotas.at`).
    """

    quotas: LevelQuotas | None = None

    def make_schedule(self, keep_ratio: float | Sequence[float] | None) -> KeepSchedule:
        """The quotas, scaled to a keep ratio."""
        if self.quotas is None:
            return super().make_schedule(keep_ratio)
        return self.quotas if keep_ratio is None else self.quotas.at(keep_ratio)

    def top_k(self, scores: Tensor, tokens: TokenGrid, levels: range) -> GroupSelection:
        """Keep the best of each level, then rank what is kept of all of them together.

        Counted over the batch, padding stands among a level's tokens at the batch's lowest
        score, as released: a layer may carry it along, but never keeps it.
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


def optional_quotas(
    by_level: bool,
    level_ratios: Sequence[float] | None,
    layer_ratios: Sequence[float] | None,
    num_levels: int,
    num_layers: int,
    cascade: bool | None,
) -> LevelQuotas | None:
    """The quotas of a selector that has them with ``by_level`` only, see :class:`LevelQuotas`.

    Raises:
        ValueError: ratios of levels or layers without ``by_level``.
    """
    if by_level:
        return LevelQuotas.of_config(
            level_ratios, layer_ratios, num_levels, num_layers, cascade is not False
        )
    for name, given in (("level_ratios", level_ratios), ("layer_ratios", layer_ratios)):
        if given is not None:
            raise ValueError(f"selector.{name} needs selector.by_level=True, got {given}")
    return None
