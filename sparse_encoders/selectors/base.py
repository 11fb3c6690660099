"""The contract of a selector, which chooses the tokens that each encoder layer keeps.

A selector scores tokens; the base class ranks them, counts how many are kept and masks padding. A
new selector implements :meth:`Selector.score` and, if it learns, :meth:`Selector.loss`. One whose
number of kept tokens is not a share of all tokens also overrides :meth:`Selector.make_schedule` and
:meth:`Selector.top_k`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from sparse_encoders.compat import register_state_dict_post_hook
from sparse_encoders.contracts import DetectorParts, Targets
from sparse_encoders.selectors.drawn_ratio import DrawnRatio
from sparse_encoders.selectors.keep import COUNTS, KeepSchedule
from sparse_encoders.selectors.ranking import best_first, fill_with_lowest, rankable
from sparse_encoders.selectors.selection import GroupSelection, LayerSelection, Selection
from sparse_encoders.tokens import TokenGrid

# keys of a state dict's metadata: a ratio for each layer, or (low, high, training steps)
METADATA_KEY, DRAWN_KEY = "keep_ratio", "drawn_keep_ratio"


class Selector(nn.Module):
    """Base of all selectors.

    Args:
        num_layers: encoder layers.
        num_levels: feature levels.
        embed_dims: channels C of a token.
        keep_ratio: share of an image's valid tokens that each layer keeps, in
            (0, 1]: one number (the average over layers) or one for each layer.
        cascade: with one number, keep fewer tokens in later layers, as in Focus-DETR
            (Table 1 of the supplement).
        count: in training, ``'batch'`` (a layer takes as many tokens of every image as the
            batch's largest image keeps, as in the released Focus-DETR) or ``'image'`` (as many
            as the image itself keeps).
        first_stage: whether the detector lends a first-stage projection; set by
            the detector.
        test_count: the same at test time. With ``'image'`` the detections of an image do not
            depend on the other images of its batch; ``'batch'`` is for reproducing the numbers of
            the releases.
        train_keep_ratio: (low, high), from which each training step draws its keep ratio, see
            :class:`DrawnRatio`; ``keep_ratio`` then holds at test time only. None: every step
            uses ``keep_ratio``.

    Raises:
        ValueError: a ratio outside (0, 1], a list that increases or has another length than there
            are layers, an invalid range, an unknown ``count`` or ``test_count``.
    """

    default_cascade = False
    #: whether :meth:`loss` needs ``targets.attention_map``, the decoder attention map
    learns_from_decoder = False
    #: whether :meth:`score` needs ``detector.targets``, the boxes of the images
    needs_boxes = False

    def __init__(
        self,
        num_layers: int = 6,
        num_levels: int = 4,
        embed_dims: int = 256,
        keep_ratio: float | Sequence[float] | None = 0.3,
        cascade: bool | None = None,
        count: str = "batch",
        first_stage: bool = True,
        test_count: str = "image",
        train_keep_ratio: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        for name, given in (("count", count), ("test_count", test_count)):
            if given not in COUNTS:
                raise ValueError(f"selector.{name} must be one of {COUNTS}, got {given!r}")
        self.num_layers = num_layers
        self.num_levels = num_levels
        self.embed_dims = embed_dims
        self.cascade = self.default_cascade if cascade is None else cascade
        self.count = count
        self.test_count = test_count
        self.first_stage = first_stage
        self.schedule = self.make_schedule(keep_ratio)
        self.test_schedule: KeepSchedule | None = None
        self.drawn = None if train_keep_ratio is None else DrawnRatio(train_keep_ratio)
        #: keep ratio of each layer in training; None before any training, and if it was drawn
        self.trained_keep_ratio: tuple[float, ...] | None = None
        #: (low, high) from which it was drawn; None before any training, and if it was not
        self.trained_keep_range: tuple[float, float] | None = None
        register_state_dict_post_hook(self, _note_keep_ratio)

    def set_keep_ratio(
        self, keep_ratio: float | Sequence[float] | None, test_only: bool = False
    ) -> None:
        """Set the keep ratio; no weight changes.

        Args:
            keep_ratio: as in the constructor.
            test_only: set it for testing only. False sets it for training too and discards an
                earlier ratio for testing. ``train_keep_ratio`` still holds in training.
        """
        schedule = self.make_schedule(keep_ratio)
        self.test_schedule = schedule if test_only else None
        if not test_only:
            self.schedule = schedule

    def note_training(self) -> None:
        """Record the keep ratio of a training step; :meth:`Encoder.loss` calls it in training."""
        if self.drawn is None:
            self.trained_keep_ratio, self.trained_keep_range = self.schedule.per_layer, None
        else:
            self.trained_keep_ratio = None
            self.trained_keep_range = (self.drawn.low, self.drawn.high)
            self.drawn.step += 1

    def make_schedule(self, keep_ratio: float | Sequence[float] | None) -> KeepSchedule:
        """The keep schedule of a config's ``keep_ratio``; called by the constructor, too.

        Raises:
            ValueError: an invalid ratio, or None for a selector without quotas.
        """
        if keep_ratio is None:
            raise ValueError(
                f"keep_ratio of {type(self).__name__} must be a number in (0, 1], or one for each "
                "encoder layer, got None"
            )
        return KeepSchedule.from_config(keep_ratio, self.num_layers, self.cascade)

    @property
    def active_schedule(self) -> KeepSchedule:
        """The keep schedule of the current mode, training or testing."""
        if not self.training:
            return self.test_schedule or self.schedule
        return self.schedule if self.drawn is None else self.make_schedule(self.drawn.ratio)

    @property
    def counts_over_batch(self) -> bool:
        """Whether numbers of tokens follow the batch's largest image in the current mode."""
        return (self.count if self.training else self.test_count) == "batch"

    def score(self, tokens: TokenGrid, detector: DetectorParts) -> Tensor:
        """Score every token of a batch; the method that a new selector implements.

        :meth:`select` calls it once for each batch, in training and at test time, under autocast
        if the encoder runs under it. An implementation keeps no tensor on ``self`` and derives
        sizes from the shape of its input alone (no ``.item()``, no boolean indexing).

        Args:
            tokens: B images of N tokens on L levels with C channels.
            detector: what the detector lends for this call: ``projection`` if it has a first
                stage, ``targets`` if :attr:`needs_boxes`.

        Returns:
            (B, N) scores of any floating dtype; tokens with the highest are kept. They are ranked
            in float32 and without gradient; :meth:`loss` gets them as ``selection.logits``, with
            their gradient. Padding is never kept, whatever its score, and NaN ranks behind every
            other valid token.

        Raises:
            ValueError: the detector lends nothing that the selector needs.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement score()")

    def loss(self, selection: Selection, tokens: TokenGrid, targets: Targets) -> dict[str, Tensor]:
        """Losses that train the selector; none by default.

        :meth:`Encoder.loss` calls it once for each training step, outside of autocast, with
        float32 records.

        Args:
            selection: what :meth:`select` returned; ``logits`` are NaN where a token is.
            tokens: the batch that was scored.
            targets: boxes (x1, y1, x2, y2) in pixels of the padded input and labels of each image;
                ``attention_map`` if :attr:`learns_from_decoder`.

        Returns:
            Scalars by name, each name with 'loss' in it, so that MMEngine sums them.
        """
        return {}

    def select(
        self,
        tokens: TokenGrid,
        detector: DetectorParts,
        groups: Sequence[range] | None = None,
    ) -> Selection:
        """Choose the tokens that each encoder layer keeps: score, rank, cut to the keep ratio.

        :meth:`PruningEncoder.forward` calls it once for each batch. A new selector overrides
        :meth:`score`, which has the same errors, not this method.

        Args:
            tokens: B images of N tokens.
            detector: what the detector lends to its encoder.
            groups: neighbouring levels that are ranked together; in order,
                every level once. None: all levels are one group.
        """
        logits = self.score(tokens, detector)
        # the score of a token with NaN features is NaN: it ranks last, and the loss is NaN, too
        logits = logits.masked_fill(tokens.broken.squeeze(-1), torch.nan)
        # float32: in half precision thousands of tokens would tie
        scores = logits.detach().float()
        groups = (tokens.all_levels,) if groups is None else groups
        return Selection(
            tuple(self.top_k(scores, tokens, levels) for levels in groups),
            logits,
            fill_with_lowest(scores, tokens.padding_mask, self.counts_over_batch),
        )

    def top_k(self, scores: Tensor, tokens: TokenGrid, levels: range) -> GroupSelection:
        """The tokens of some levels with the highest scores, as many as the keep schedule says.

        :meth:`select` calls it for each group of levels. An image with v valid tokens there has
        n = int(v * ratio) + 1 foreground tokens, see :mod:`sparse_encoders.selectors.keep`.

        Args:
            scores: (B, N) float32 of all levels, without gradient; NaN where a token has no score.
            tokens: the batch.
            levels: the levels of the group.
        """
        part, padding = tokens.tokens_of(levels), tokens.padding_of(levels)
        schedule = self.active_schedule
        max_foreground = schedule.foreground_counts(tokens.capacity_of(levels))
        sizes = schedule.layer_counts(max_foreground)
        foreground = schedule.foreground_counts(tokens.num_valid(levels))
        shared = foreground.max().expand_as(foreground) if self.counts_over_batch else foreground
        limits = schedule.layer_counts(shared)
        unusable = tokens.unusable[:, part].squeeze(-1)
        ranked = best_first(rankable(scores[:, part], padding), sizes[0], unusable) + part.start
        # without padding every image keeps all K rows, which is then known on the host
        layers = LayerSelection.from_ranking(
            ranked, sizes, limits, foreground, all_kept=padding is None
        )
        return GroupSelection(levels, layers, foreground, max_foreground)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)
        trained, drawn = local_metadata.get(METADATA_KEY), local_metadata.get(DRAWN_KEY)
        current, trained_at = self.test_schedule or self.schedule, ""
        if drawn is not None:
            low, high, step = drawn
            self.trained_keep_ratio, self.trained_keep_range = None, (low, high)
            if self.drawn is not None:
                self.drawn.step = int(step)
            if not low <= current.average <= high:
                trained_at = f"drawn from {low:g} to {high:g}"
        elif trained is not None:
            self.trained_keep_ratio, self.trained_keep_range = tuple(trained), None
            if _rounded(trained) != _rounded(current.per_layer):
                trained_at = f"{_rounded(trained)}"
        if trained_at:
            print_log(
                f"{type(self).__name__}: the checkpoint was trained at keep ratios {trained_at}, "
                f"the model keeps {_rounded(current.per_layer)}",
                "current",
            )


def _note_keep_ratio(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any]
) -> None:
    """Write the trained keep ratio, or its range, into the metadata of a state dict."""
    if not isinstance(module, Selector):
        return
    if module.trained_keep_ratio is not None:
        local_metadata[METADATA_KEY] = list(module.trained_keep_ratio)
    if module.trained_keep_range is not None:
        step = 0 if module.drawn is None else module.drawn.step
        local_metadata[DRAWN_KEY] = [*module.trained_keep_range, step]


def _rounded(ratios: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(ratio, 4) for ratio in ratios)
