"""Time and memory of the attention operators against what they replace, in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sparse_encoders.analysis.latency import Timing, interleaved
from sparse_encoders.analysis.memory import MIB, peak_memory
from sparse_encoders.ops import deformable_attention, key_aware_attention

BASELINES = {"deformable": "mmcv", "key_aware": "torch"}
HEADS, DEPTH, POINTS = 8, 32, 4
NEAR = 2.0  # standard deviation of local places around their token, in tokens of the level


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        operator: 'deformable' or 'key_aware'.
        places: 'random' over the whole map, or 'local' within a few tokens of the query.
        queries: how many, out of all tokens.
        direction: 'forward' or 'forward + backward'.
        dtype: of all tensors.
    """

    operator: str
    places: str
    queries: int
    direction: str
    dtype: str


@dataclass(frozen=True)
class Result:
    """A case's numbers; speed-ups are medians over rounds, memory is in MiB beyond the inputs.

    Attributes:
        case: what was measured.
        baseline: backend that the compiled operator is compared with.
        seconds: median of the compiled operator.
        baseline_seconds: median of the baseline.
        speed_up: baseline's time over the compiled operator's.
        peak_mib: of the compiled operator; None where it was not measured.
        baseline_peak_mib: of the baseline.
        memory_share: the first over the second.
    """

    case: Case
    baseline: str
    seconds: float
    baseline_seconds: float
    speed_up: float
    peak_mib: float | None = None
    baseline_peak_mib: float | None = None
    memory_share: float | None = None


def token_centres(shapes: Sequence[tuple[int, int]]) -> Tensor:
    """(N, 2) normalised (x, y) of all tokens, level by level."""
    centres = []
    for height, width in shapes:
        y = (torch.arange(height) + 0.5) / height
        x = (torch.arange(width) + 0.5) / width
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        centres.append(torch.stack([columns, rows], -1).flatten(0, 1))
    return torch.cat(centres)


def inputs_of(
    case: Case, shapes: Sequence[tuple[int, int]], device: str, seed: int = 0
) -> tuple[Any, ...]:
    """Arguments of the case's operator.

    The queries are tokens: all of them, or every n-th. Local places are normally distributed
    around the query's token, with a standard deviation of two tokens of each level.
    """
    draw = torch.Generator().manual_seed(seed)
    tokens, levels = sum(h * w for h, w in shapes), len(shapes)
    chosen = torch.arange(case.queries) * tokens // case.queries
    points = token_centres(shapes)[chosen].view(1, -1, 1, 2).repeat(1, 1, levels, 1)
    sizes = torch.tensor([[w, h] for h, w in shapes], dtype=torch.float32)[:, None]
    sets = (1, case.queries, HEADS, levels, POINTS)
    centres = points[:, :, None, :, None]
    if case.places == "random":
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
    operator: Callable[..., Tensor] = (
        deformable_attention if case.operator == "deformable" else key_aware_attention
    )
    if case.direction == "forward":

        def forward() -> Tensor:
            with torch.no_grad():
                return operator(*inputs, backend=backend)

        return forward
    fixed = {2} if case.operator == "deformable" else set()  # encoders' reference points
    taken = [
        x.detach().requires_grad_() if isinstance(x, Tensor) and i not in fixed else x
        for i, x in enumerate(inputs)
    ]
    wanted = [x for x in taken if isinstance(x, Tensor) and x.requires_grad]
    value = inputs[0] if case.operator == "deformable" else inputs[2]
    grad = torch.ones(1, case.queries, HEADS * DEPTH, dtype=value.dtype, device=value.device)

    def forward_and_backward() -> object:
        return torch.autograd.grad(operator(*taken, backend=backend), wanted, grad)

    return forward_and_backward


def measure(
    case: Case, shapes: Sequence[tuple[int, int]], device: str, repeats: int, memory: bool
) -> Result:
    """Time the compiled operator and its baseline in turns, then their memory."""
    inputs = inputs_of(case, shapes, device)
    baseline = BASELINES[case.operator]
    calls = {name: call_of(case, inputs, name) for name in ("fused", baseline)}
    timings: dict[str, Timing] = {}
    for _, so_far in interleaved(calls, repeats, 1, device):
        timings = so_far
    peaks: dict[str, int | None] = dict.fromkeys(calls)
    if memory:
        peaks = {name: peak_memory(call, device) for name, call in calls.items()}
    ours, theirs = peaks["fused"], peaks[baseline]
    return Result(
        case,
        baseline,
        timings["fused"].median,
        timings[baseline].median,
        timings[baseline].ratio_to(timings["fused"]),
        None if ours is None else ours / MIB,
        None if theirs is None else theirs / MIB,
        None if not ours or not theirs else ours / theirs,
    )


def cases(queries: Sequence[int], operators: Sequence[str], dtype: str) -> Iterator[Case]:
    """Every combination; key-aware attention takes the same settings."""
    for operator in operators:
        for count in queries:
            for places in ("random", "local"):
                for direction in ("forward", "forward + backward"):
                    yield Case(operator, places, count, direction, dtype)


def table(results: Sequence[Result]) -> str:
    """The results for people, one line a case."""
    lines = [
        f"{'operator':11} {'places':7} {'queries':>7}  {'direction':19} {'compiled':>10} "
        f"{'baseline':>10}  {'faster by':>9}  {'memory (MiB)':>15}  {'share':>6}"
    ]
    for result in results:
        case = result.case
        memory, share = "-", "-"
        if result.peak_mib is not None and result.baseline_peak_mib is not None:
            memory = f"{result.peak_mib:.0f} / {result.baseline_peak_mib:.0f}"
        if result.memory_share is not None:
            share = f"{result.memory_share:.3f}"
        lines.append(
            f"{case.operator:11} {case.places:7} {case.queries:7}  {case.direction:19} "
            f"{result.seconds * 1e3:7.1f} ms {result.baseline_seconds * 1e3:7.1f} ms  "
            f"{result.speed_up:8.1f}x  {memory:>15}  {share:>6}"
        )
    return "\n".join(lines)


def as_records(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The results for JSON."""
    return [asdict(result) for result in results]
