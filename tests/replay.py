"""The choices of one forward pass, made again in another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest
from mmdet.models.task_modules.assigners import hungarian_assigner, topk_hungarian_assigner
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
        """``choice``, or the recorded one instead."""
        if not self.notes:
            return self.taken.pop(0)
        self.taken.append(choice)
        return choice

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        actual = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "")
        if name == "argsort":
            return self.settle(actual)
        if name not in ("topk", "sort"):
            return actual
        settled = self.settle(actual.indices)
        assert settled.shape == actual.indices.shape
        index = 2 if name == "topk" else 1
        dim = (kwargs or {}).get("dim", args[index] if len(args) > index else -1)
        return type(actual)((args[0].gather(dim, settled), settled))

    def settled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function outside of torch whose whole result is a choice."""
        return lambda *args, **kwargs: self.settle(function(*args, **kwargs))


@contextmanager
def choices(taken: list[Any] | None = None) -> Iterator[list[Any]]:
    """Note a pass's choices in the list that is given, or take over ``taken``."""
    mode = Choices(taken)
    with pytest.MonkeyPatch.context() as patch, mode:
        for owner, name in (
            (hungarian_assigner, "linear_sum_assignment"),
            (topk_hungarian_assigner, "linear_sum_assignment"),
            (import_module("mmcv.ops.nms").ext_module, "nms"),
        ):
            patch.setattr(owner, name, mode.settled(getattr(owner, name)))
        yield mode.taken
    assert mode.notes or not mode.taken
