"""Two-stage proposals that rounding alone puts in order.

A two-stage detector with learned content queries gives them to the proposals by
rank. Where two proposals next to each other score the same but for rounding,
another machine may rank them the other way round, and their two queries then
find other boxes. Comparisons may swap such pairs, and only those.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# gap of two scores over the range of all, below which their order means nothing
TIE = 1e-5


class FirstStageScores:
    """Records the logits that a first stage ranks, and nudges chosen ones.

    Args:
        branch: the classification branch of the first stage. An encoder may use
            it too: the ranking is its last call.
        by_class: proposals are ranked by their best class; False: by the first one.
    """

    def __init__(self, branch: nn.Module, by_class: bool = True) -> None:
        self.branch, self.by_class = branch, by_class
        self.nudges: dict[int, float] = {}  # token to what is added to its logits in the ranking
        self.logits: Tensor | None = None
        self._calls, self._ranking = 0, -1

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record, and nudge where asked to, for one forward pass."""
        self._calls = 0
        handle = self.branch.register_forward_hook(self._hook)
        try:
            yield
        finally:
            handle.remove()
            self._ranking = self._calls

    def _hook(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        self._calls += 1
        if self._calls == self._ranking:
            output = output.clone()
            for token, nudge in self.nudges.items():
                output[:, token] += nudge
        self.logits = output.detach()
        return output

    def ties(self, image: int, limit: int) -> list[tuple[int, float]]:
        """Tokens to nudge past the one that stands just before them, nearest first.

        Args:
            image: index of the image.
            limit: proposals that are kept; the first one left out counts, too.
        """
        assert self.logits is not None
        logits = self.logits[image]
        scores = logits.amax(-1) if self.by_class else logits[:, 0]
        best = scores.topk(min(limit + 1, len(scores)))
        gaps = best.values[:-1] - best.values[1:]
        close = (gaps > 0) & (gaps < TIE * (scores.max() - scores.min()))
        order = gaps.masked_fill(~close, torch.inf).argsort()[: int(close.sum())]
        # half as far again as needed: past the neighbour, not past the next
        return [(int(best.indices[i + 1]), 1.5 * float(gaps[i])) for i in order]
