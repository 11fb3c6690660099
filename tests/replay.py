"""The choices of one forward pass, made again in another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmdet.models.task_modules.assigners import hungarian_assigner
from torch.overrides import TorchFunctionMode


class Choices(TorchFunctionMode):
    """Which tokens, proposals and matches a detector took, noted or taken over.

    Two precisions rank near ties differently, and one other match turns the gradient of
    a small model around. With the choices of the first pass, the second differs by its
    arithmetic only.

    Args:
        taken: choices to make again, in their order; None notes them in ``taken``.
    """

    def __init__(self, taken: list[Any] | None = None) -> None:
        super().__init__()
        self.notes = taken is None
        self.taken: list[Any] = [] if taken is None else list(taken)

    def settle(self, choice: Any) -> Any:
        """``choice``, or the one that was made in its place before."""
        if not self.notes:
            return self.taken.pop(0)
        self.taken.append(choice)
        return choice

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        if function not in (torch.topk, torch.Tensor.topk):
            return found
        settled = self.settle(found.indices)
        assert settled.shape == found.indices.shape
        dim = (kwargs or {}).get("dim", args[2] if len(args) > 2 else -1)
        return torch.return_types.topk((args[0].gather(dim, settled), settled))


@contextmanager
def choices(taken: list[Any] | None = None) -> Iterator[list[Any]]:
    """Note a pass's choices in the list that is given, or take over ``taken``."""
    mode, solve = Choices(taken), hungarian_assigner.linear_sum_assignment
    hungarian_assigner.linear_sum_assignment = lambda cost: mode.settle(solve(cost))
    try:
        with mode:
            yield mode.taken
    finally:
        hungarian_assigner.linear_sum_assignment = solve
    assert mode.notes or not mode.taken
