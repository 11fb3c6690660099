"""The compiled operators: loading, and choice of the backend of a call.

The extension is one shared library, ``sparse_encoders/_C*.so``, built by ``setup.py`` from
``csrc/``. It only registers ``torch.ops.sparse_encoders.*`` with the dispatcher, so it is loaded
with ``torch.ops.load_library`` and holds no Python module.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparse_encoders.compat import is_compiling

BACKENDS = ("auto", "fused", "mmcv", "torch")
"""Values of ``backend``; 'mmcv' exists for deformable attention only."""

_PACKAGE = Path(__file__).resolve().parent.parent
_HOW_TO_BUILD = "build it with `python setup.py build_ext --inplace` in the project's folder"
_DTYPES = {
    "cpu": (torch.float32, torch.float64, torch.bfloat16),
    "cuda": (torch.float32, torch.float16, torch.bfloat16),
}
_warned: set[str] = set()
_libraries: list[torch.library.Library] = []  # kept, because freeing a Library removes its kernels


def _load() -> str | None:
    """Load the shared library; None on success, otherwise the reason why it cannot be."""
    libraries = sorted(p for p in _PACKAGE.glob("_C*") if p.suffix in (".so", ".pyd", ".dylib"))
    if not libraries:
        return f"no compiled extension in {_PACKAGE}: {_HOW_TO_BUILD}"
    try:
        torch.ops.load_library(str(libraries[0]))
    except OSError as error:
        return (
            f"{libraries[0].name} does not load with torch {torch.__version__} ({error}); "
            f"{_HOW_TO_BUILD} again"
        )
    return None


_why_no_extension = _load()
_kernels = {
    (operator, device)  # looked up once, because a graph capture cannot ask the dispatcher
    for operator in ("deformable_attention", "key_aware_attention")
    for device in _DTYPES
    if _why_no_extension is None
    and torch._C._dispatch_has_kernel_for_dispatch_key(
        f"sparse_encoders::{operator}", device.upper()
    )
}


def why_no_extension() -> str | None:
    """Why there are no compiled operators, with the loader's message; None if there are."""
    return _why_no_extension


def has_extension() -> bool:
    """Whether ``torch.ops.sparse_encoders.*`` are available, at least for the CPU."""
    return _why_no_extension is None


def why_not_fused(operator: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the compiled operator cannot take tensors of this device and dtype; None if it can.

    Args:
        operator: 'deformable_attention' or 'key_aware_attention'.
        device: where the values are.
        dtype: of the values.
    """
    if _why_no_extension is not None:
        return _why_no_extension
    if (operator, device.type) not in _kernels:
        return f"the extension was built without {operator} for {device.type}; {_HOW_TO_BUILD}"
    known = _DTYPES[device.type]
    if dtype not in known:
        accepted = ", ".join(str(d).removeprefix("torch.") for d in known)
        return f"{operator} on {device.type} takes {accepted}, got {dtype}"
    return None


def check_backend(operator: str, backend: str) -> str:
    """``backend``, if the operator has it.

    Raises:
        ValueError: it has not.
    """
    offered = BACKENDS if operator == "deformable_attention" else ("auto", "fused", "torch")
    if backend not in offered:
        raise ValueError(
            f"backend must be one of {', '.join(offered)} for {operator}, got {backend!r}"
        )
    return backend


def choose_backend(operator: str, backend: str, value: Tensor) -> str:
    """'fused', 'mmcv' or 'torch': resolves 'auto' and checks a given backend.

    Raises:
        ValueError: an unknown backend, or one that cannot take ``value``; the message says why.
    """
    if check_backend(operator, backend) in ("mmcv", "torch"):
        return backend
    reason = why_not_fused(operator, value.device, value.dtype)
    if reason is None:
        return "fused"
    if backend == "fused":
        raise ValueError(f"backend 'fused' cannot be used here: {reason}")
    if operator == "deformable_attention" and value.is_cuda and mmcv_has_cuda():
        return "mmcv"
    message = f"{operator} runs in plain PyTorch, which is several times slower: {reason}"
    if message not in _warned and not is_compiling():  # never during a graph capture
        _warned.add(message)
        warnings.warn(message, stacklevel=3)
    return "torch"


def flatten(shapes: Sequence[tuple[int, int]]) -> list[int]:
    """(h, w) of each level as the operators take them: h0, w0, h1, w1, ..."""
    return [side for height, width in shapes for side in (height, width)]


def mmcv_has_cuda() -> bool:
    """Whether MMCV was built with its CUDA operators."""
    from mmcv.utils import IS_CUDA_AVAILABLE

    return bool(IS_CUDA_AVAILABLE)


def register(name: str, meta: Callable[..., Tensor]) -> None:
    """Register an operator's meta kernel and its derivative; without the extension do nothing.

    Its derivative is the operator ``{name}_backward``, which takes the gradient of the output and
    then the inputs, returns the gradients of the tensors and cannot be differentiated itself.
    Registered under the dispatcher's keys, which ``torch.compile`` and ``torch.export`` of every
    accepted torch support.

    Args:
        name: in ``torch.ops.sparse_encoders``; its inputs are tensors and a list of integers.
        meta: the operator on tensors without data, which returns an empty result.
    """
    if not has_extension():
        return
    derivative = f"{name}_backward"
    backward_operator = getattr(torch.ops.sparse_encoders, derivative)

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors, at = ctx.saved_tensors, ctx.at
        grads = backward_operator(grad, *tensors[:at], ctx.shapes, *tensors[at:])
        return *grads[:at], None, *grads[at:]

    def refuse(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError(f"sparse_encoders::{derivative} cannot be differentiated")

    _implement(name, meta, backward)
    _implement(derivative, _meta_backward, refuse)


def _implement(name: str, meta: Callable[..., Any], backward: Callable[..., Any]) -> None:
    """The meta and autograd kernels of one operator."""
    operator = getattr(torch.ops.sparse_encoders, name).default

    def below(*inputs: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*inputs)

    def forward(ctx: Any, *inputs: Any) -> Any:
        output = below(*inputs)
        ctx.at = next(i for i, x in enumerate(inputs) if not isinstance(x, Tensor))
        ctx.shapes = inputs[ctx.at]
        ctx.save_for_backward(*inputs[: ctx.at], *inputs[ctx.at + 1 :])
        return output

    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    function: Any = type(name, (torch.autograd.Function,), members)

    def differentiable(*inputs: Any) -> Any:
        tensors = (x for x in inputs if isinstance(x, Tensor))
        if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
            return function.apply(*inputs)
        return below(*inputs)

    library = torch.library.Library("sparse_encoders", "IMPL")
    library.impl(name, meta, "Meta")
    library.impl(name, differentiable, "Autograd")
    _libraries.append(library)


def _meta_backward(grad: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    tensors = (x for x in inputs if isinstance(x, Tensor))
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in tensors)
