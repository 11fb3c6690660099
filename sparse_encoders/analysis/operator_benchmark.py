"""Time and memory of the compiled operators against MMCV's and plain PyTorch's, in turns.

Deformable attention is compared with MMCV's path from the same raw offsets and logits (its CPU
fallback, or its CUDA operator), key-aware attention with its plain PyTorch form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from sparse_encoders.analysis import require
from sparse_encoders.analysis.benchmark import benchmark
from sparse_encoders.ops import deformable_attention, key_aware_attention
from sparse_encoders.tokens import TokenGrid

BASELINES = {"deformable": "mmcv", "key_aware": "torch"}
NOT_OF_MMCV = ("bfloat16",)  # dtypes that its operator refuses: it is run in float32 instead
HEADS, DEPTH, POINTS = 8, 32, 4
NEAR = 2.0  # standard deviation of local offsets from their token, in tokens of the level


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        operator: 'deformable' or 'key_aware'.
        locations: sampling locations 'random' over the whole map, or 'local' within a few tokens
            of the query.
        queries: how many, out of all tokens.
        direction: 'forward' or 'forward + backward'.
        dtype: of all tensors.
    """

    operator: str
    locations: str
    queries: int
    direction: str
    dtype: str


def cases(queries: Sequence[int], operators: Sequence[str], dtype: str) -> Iterator[Case]:
    """Every combination; key-aware attention takes the same settings."""
    directions = ("forward", "forward + backward")
    every = product(operators, queries, ("random", "local"), directions)
    for operator, count, locations, direction in every:
        yield Case(operator, locations, count, direction, dtype)


def inputs_of(case: Case, shapes: Sequence[tuple[int, int]], device: str) -> tuple[Any, ...]:
    """Arguments of the case's operator.

    The queries are tokens: all of them, or every n-th. Local sampling locations are normally
    distributed around the query's token, with a standard deviation of two tokens of each level.
    """
    draw = torch.Generator().manual_seed(0)
    tokens, levels = sum(h * w for h, w in shapes), len(shapes)
    chosen = torch.arange(case.queries) * tokens // case.queries
    maps = [torch.zeros(1, 1, h, w) for h, w in shapes]
    points = TokenGrid.from_maps(maps, maps).reference_points[:, chosen]
    sizes = torch.tensor(shapes, dtype=torch.float32).flip(1)[:, None]
    sets = (1, case.queries, HEADS, levels, POINTS)
    centres = points[:, :, None, :, None]
    if case.locations == "random":
        offsets = (torch.rand(*sets, 2, generator=draw) - centres) * sizes
    else:
        offsets = torch.randn(*sets, 2, generator=draw) * NEAR
    dtype: torch.dtype = getattr(torch, case.dtype)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=draw).to(device, dtype)

    value = normal(1, tokens, HEADS, DEPTH)
    if case.operator == "deformable":
        logits = normal(*sets)
        return value, shapes, points.to(device), offsets.to(device, dtype), logits
    locations = centres + offsets / sizes
    query, key = normal(1, case.queries, HEADS, DEPTH), normal(1, tokens, HEADS, DEPTH)
    return query, key, value, shapes, locations.to(device)


def call_of(case: Case, inputs: tuple[Any, ...], backend: str) -> Callable[[], object]:
    """A call without arguments: the forward, or the forward and all gradients."""
    deformable = case.operator == "deformable"
    operator: Callable[..., Tensor] = deformable_attention if deformable else key_aware_attention
    if backend == "mmcv" and inputs[0].is_cuda:
        operator = _mmcv_on_gpu(inputs[1], inputs[0].device)
    if backend == "mmcv" and case.dtype in NOT_OF_MMCV:
        operator = _in_float32(operator)
    if case.direction == "forward":
        return torch.no_grad()(lambda: operator(*inputs, backend=backend))
    fixed = {2} if deformable else set()  # encoders' reference points
    taken = [
        x.detach().requires_grad_() if isinstance(x, Tensor) and i not in fixed else x
        for i, x in enumerate(inputs)
    ]
    wanted = [x for x in taken if isinstance(x, Tensor) and x.requires_grad]
    grad = wanted[0].new_ones(1, case.queries, HEADS * DEPTH)
    return lambda: torch.autograd.grad(operator(*taken, backend=backend), wanted, grad)


def _mmcv_on_gpu(shapes: Sequence[tuple[int, int]], device: torch.device) -> Callable[..., Tensor]:
    """MMCV's operator with softmax and locations, given what MMDetection makes once a batch.

    This package's backend 'mmcv' copies the levels' sizes to the GPU in each call and waits for it.
    """
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    sizes = torch.tensor(shapes, device=device)
    starts = torch.cat([sizes.new_zeros(1), sizes.prod(1).cumsum(0)[:-1]])
    sides = sizes.flip(1)[:, None]

    def call(
        value: Tensor, shapes: Any, points: Tensor, offsets: Tensor, logits: Tensor, backend: str
    ) -> Any:
        weights = logits.flatten(-2).softmax(-1).view_as(logits)
        locations = points[:, :, None, :, None] + offsets / sides
        operator = MultiScaleDeformableAttnFunction.apply
        return operator(value, sizes, starts, locations, weights, 64)

    return call


def _in_float32(operator: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The operator with its tensors cast to float32 and its result cast back."""

    def call(value: Tensor, *others: Any, **settings: Any) -> Tensor:
        wide = [x.float() if isinstance(x, Tensor) else x for x in others]
        return operator(value.float(), *wide, **settings).to(value.dtype)

    return call


def _many(call: Callable[[], object], number: int) -> Callable[[], object]:
    def calls() -> None:
        for _ in range(number):
            call()

    return calls


def measure(
    case: Case,
    shapes: Sequence[tuple[int, int]],
    device: str,
    repeats: int,
    memory: bool,
    number: int = 1,
) -> dict[str, Any]:
    """Measure the compiled operator and its baseline in turns.

    Args:
        case: what is measured.
        shapes: (h, w) of each level.
        device: where.
        repeats: timed rounds, after one that is not.
        memory: whether peak memory is measured.
        number: calls of each in a round, one after another: on a GPU several, so that it need
            not wait for the host.

    Returns:
        The case with ``baseline`` (its name), ``seconds`` and ``baseline_seconds`` (medians),
        ``speed_up`` (the baseline's time over the compiled operator's, median over rounds),
        ``peak_mib`` and ``baseline_peak_mib`` (beyond the inputs; None where not measured), and
        ``memory_share``, the first over the second.
    """
    inputs, baseline = inputs_of(case, shapes, device), BASELINES[case.operator]
    calls = {name: _many(call_of(case, inputs, name), number) for name in ("fused", baseline)}
    frame = benchmark(calls, repeats, 1, device, memory)
    ours, theirs = frame.loc["fused"], frame.loc[baseline]
    share = theirs.memory_share_of_first
    cast = baseline == "mmcv" and case.dtype in NOT_OF_MMCV
    return asdict(case) | {
        "baseline": f"{baseline}, in float32" if cast else baseline,
        "seconds": ours.seconds / number,
        "baseline_seconds": theirs.seconds / number,
        "speed_up": theirs.share_of_first,
        "peak_mib": ours.peak_mib,
        "baseline_peak_mib": theirs.peak_mib,
        "memory_share": 1 / share if share else None,
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """The results for people, a line a case."""
    require("pandas", "tabulate")
    import pandas as pd

    def beside(form: str, *values: float | None) -> str:
        return "-" if None in values else " / ".join(form.format(value) for value in values)

    lines = [
        {key: r[key] for key in ("operator", "locations", "queries", "direction")}
        | {
            "compiled": f"{r['seconds'] * 1e3:.1f} ms",
            "baseline": f"{r['baseline_seconds'] * 1e3:.1f} ms",
            "faster by": f"{r['speed_up']:.1f}x",
            "memory (MiB)": beside("{:.0f}", r["peak_mib"], r["baseline_peak_mib"]),
            "share": beside("{:.3f}", r["memory_share"]),
        }
        for r in results
    ]
    text: str = pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)
    return text
