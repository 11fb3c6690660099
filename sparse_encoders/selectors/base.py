"""The contract of a selector: which tokens does each encoder layer keep?

A selector scores tokens; ranking, counting and masking are done here, once. A
new selector implements :meth:`Selector.score` and, if it learns,
:meth:`Selector.loss`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from sparse_encoders.compat import register_state_dict_post_hook
from sparse_encoders.contracts import DetectorParts, Targets
from sparse_encoders.selectors.keep import COUNTS, KeepSchedule
from sparse_encoders.tokens import TokenGrid

METADATA_KEY = "keep_ratio"


@dataclass(frozen=True)
class LayerSelection:
    """The tokens that one encoder layer keeps.

    Attributes:
        indices: (B, K) int64 token indices, best score first. K is the same for
            every image and known on the host.
        kept: (B, K) bool; False marks places that an image with fewer kept
            tokens than K only carries along: they are never written back.
        present: (B, K) bool, the places whose tokens interact in the layer. With
            ``count='batch'`` an image carries as many as the batch's largest
            one, as in the released Focus-DETR; else the same as ``kept``.
        full: whether the host knows that all of ``kept`` and ``present`` is True.
    """

    indices: Tensor
    kept: Tensor
    present: Tensor
    full: bool = False

    def gather(self, tokens: Tensor) -> Tensor:
        """(B, K, C) rows of (B, N, C), or (B, K) entries of (B, N)."""
        if tokens.dim() == 2:
            return tokens.gather(1, self.indices)
        return tokens.gather(1, self.indices.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))

    def put(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """(B, N, C) ``tokens`` with all K places replaced by (B, K, C) ``rows``."""
        return tokens.scatter(1, self.indices.unsqueeze(-1).expand_as(rows), rows)

    def write(self, tokens: Tensor, new: Tensor) -> Tensor:
        """(B, N, C) ``tokens`` with the kept ones replaced by (B, K, C) ``new``."""
        if self.full:
            return self.put(tokens, new)
        return self.put(tokens, self.choose(new, self.gather(tokens)))

    def choose(self, new: Tensor, old: Tensor) -> Tensor:
        """(B, K, C) ``new`` where a place is kept, ``old`` where it is only carried along."""
        return new if self.full else torch.where(self.kept.unsqueeze(-1), new, old)

    def mask(self, num_tokens: int) -> Tensor:
        """(B, N) bool, True where a token is kept."""
        blank = torch.zeros(
            self.indices.shape[0], num_tokens, dtype=torch.bool, device=self.indices.device
        )
        return blank.scatter(1, self.indices, self.kept)


@dataclass(frozen=True)
class Selection:
    """What a selector decided for one batch.

    Attributes:
        layers: one :class:`LayerSelection` for each encoder layer. All share one
            ranking: the indices of a layer begin those of the layer before it.
        logits: (B, N) the selector's own scores, as a loss wants them.
        scores: (B, N) float32 scores as encoders read them: padding (and NaN) at
            the smallest score of the batch.
        counts: (B,) int64 foreground tokens of each image, before any cascade.
    """

    layers: tuple[LayerSelection, ...]
    logits: Tensor
    scores: Tensor
    counts: Tensor


class Selector(nn.Module):
    """Base of all selectors.

    Args:
        num_layers: encoder layers.
        num_levels: feature levels.
        embed_dims: channels C of a token.
        keep_ratio: share of an image's valid tokens that each layer keeps, in
            (0, 1]: one number (the average over layers) or one for each layer.
        cascade: with one number, keep fewer tokens in later layers, after
            Focus-DETR's Table 1 of the supplement.
        count: ``'batch'`` (released Focus-DETR: a layer takes the share of the
            batch's largest image) or ``'image'`` (each image its own share).
        first_stage: whether the detector lends a first-stage projection; set by
            the detector.

    Raises:
        ValueError: a ratio outside (0, 1], a list that does not match the
            layers or increases, an unknown ``count``.
    """

    default_cascade = False
    #: whether :meth:`loss` needs ``targets.attention_map``, what the decoder looked at
    learns_from_decoder = False
    #: whether :meth:`score` needs ``detector.targets``, the boxes of the images
    needs_boxes = False

    def __init__(
        self,
        num_layers: int = 6,
        num_levels: int = 4,
        embed_dims: int = 256,
        keep_ratio: float | Sequence[float] = 0.3,
        cascade: bool | None = None,
        count: str = "batch",
        first_stage: bool = True,
    ) -> None:
        super().__init__()
        if count not in COUNTS:
            raise ValueError(f"count must be one of {COUNTS}, got {count!r}")
        self.num_layers = num_layers
        self.num_levels = num_levels
        self.embed_dims = embed_dims
        self.cascade = self.default_cascade if cascade is None else cascade
        self.count = count
        self.first_stage = first_stage
        self.schedule = KeepSchedule.from_config(keep_ratio, num_layers, self.cascade)
        self.test_schedule: KeepSchedule | None = None
        #: keep ratio of each layer in training; None before any training
        self.trained_keep_ratio: tuple[float, ...] | None = None
        register_state_dict_post_hook(self, _note_keep_ratio)

    def set_keep_ratio(self, keep_ratio: float | Sequence[float], test_only: bool = False) -> None:
        """Keep another share of the tokens from now on; no weight changes.

        Args:
            keep_ratio: as in the constructor.
            test_only: leave training as it is; otherwise an earlier ratio for
                testing is forgotten.
        """
        schedule = KeepSchedule.from_config(keep_ratio, self.num_layers, self.cascade)
        self.test_schedule = schedule if test_only else None
        if not test_only:
            self.schedule = schedule

    @property
    def active_schedule(self) -> KeepSchedule:
        """What is kept now: in training, or at test time."""
        return self.schedule if self.training else self.test_schedule or self.schedule

    def score(self, tokens: TokenGrid, detector: DetectorParts) -> Tensor:
        """(B, N) scores; the higher, the rather a token is kept."""
        raise NotImplementedError(f"{type(self).__name__} must implement score()")

    def loss(self, selection: Selection, tokens: TokenGrid, targets: Targets) -> dict[str, Tensor]:
        """Losses under their own names; none by default."""
        return {}

    def select(self, tokens: TokenGrid, detector: DetectorParts) -> Selection:
        """Choose the tokens that each encoder layer keeps.

        Args:
            tokens: B images of N tokens.
            detector: what the detector lends to its encoder.
        """
        if self.training:
            self.trained_keep_ratio = self.schedule.per_layer
        logits = self.score(tokens, detector)
        # a token without a meaning has no score: it ranks last, and a loss shows it
        logits = logits.masked_fill(tokens.broken.squeeze(-1), torch.nan)
        return self.cut(logits, tokens)

    def cut(self, logits: Tensor, tokens: TokenGrid) -> Selection:
        """Rank (B, N) scores and cut them by the keep schedule."""
        # float32: in half precision thousands of tokens would tie
        scores = logits.detach().float()
        schedule = self.active_schedule
        sizes = schedule.layer_sizes(tokens.capacity)
        valid = tokens.valid_counts()
        counts = torch.minimum(schedule.foreground_counts(valid), valid)
        ranked = rankable(scores, tokens.padding_mask).topk(max(sizes), dim=1).indices
        layers = []
        for size, limit in zip(sizes, schedule.layer_limits(counts, self.count), strict=True):
            rank = torch.arange(size, device=ranked.device)
            present = rank < limit.unsqueeze(1)
            kept = present & (rank < counts.unsqueeze(1))
            # without padding every image keeps its whole K, and the host knows
            full = tokens.padding_mask is None
            layers.append(LayerSelection(ranked[:, :size], kept, present, full))
        filled = fill_with_lowest(scores, tokens.padding_mask)
        return Selection(tuple(layers), logits, filled, counts)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)
        trained = local_metadata.get(METADATA_KEY)
        if trained is None:
            return
        self.trained_keep_ratio = tuple(trained)
        runs = (self.test_schedule or self.schedule).per_layer
        if not _alike(self.trained_keep_ratio, runs):
            print_log(
                f"{type(self).__name__}: the checkpoint was trained at keep ratios "
                f"{_rounded(self.trained_keep_ratio)}, the model keeps {_rounded(runs)}",
                "current",
            )


def _note_keep_ratio(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any]
) -> None:
    """Write the trained keep ratio beside the weights, as no parameter or buffer."""
    if isinstance(module, Selector) and module.trained_keep_ratio is not None:
        local_metadata[METADATA_KEY] = list(module.trained_keep_ratio)


def _alike(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(
        abs(a - b) < 1e-6 for a, b in zip(one, other, strict=True)
    )


def _rounded(ratios: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(ratio, 4) for ratio in ratios)


def rankable(scores: Tensor, padding_mask: Tensor | None) -> Tensor:
    """(B, N) scores to rank by: padding last of all, NaN last of the real tokens.

    NaN would come first in a top-k.
    """
    ranked = scores.nan_to_num(nan=torch.finfo(scores.dtype).min)
    return ranked if padding_mask is None else ranked.masked_fill(padding_mask, -torch.inf)


def fill_with_lowest(scores: Tensor, padding_mask: Tensor | None) -> Tensor:
    """(B, N) scores with padding and NaN at the batch's smallest score.

    The released Focus-DETR fills padding so before anything reads the scores.
    """
    bad = scores.isnan()
    lowest = scores.masked_fill(bad, torch.inf).min()
    if padding_mask is not None:
        bad = bad | padding_mask
    # all NaN: nothing to fill with, any finite number will do
    return torch.where(bad, lowest.nan_to_num(posinf=0.0), scores)
