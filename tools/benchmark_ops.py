"""Time and memory of the compiled operators against MMCV's and plain PyTorch's, in one run.

python tools/benchmark_ops.py --json OUT

Deformable attention is compared with MMCV's path from the same raw offsets and logits (its CPU
fallback, or its CUDA operator), key-aware attention with its plain PyTorch form.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparse_encoders.analysis import require
from sparse_encoders.analysis.benchmark import benchmark
from sparse_encoders.analysis.machine import describe_machine
from sparse_encoders.ops import deformable_attention, key_aware_attention, why_no_extension

BASELINES = {"deformable": "mmcv", "key_aware": "torch"}
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
    for operator in operators:
        for count in queries:
            for locations in ("random", "local"):
                for direction in ("forward", "forward + backward"):
                    yield Case(operator, locations, count, direction, dtype)


def token_centres(shapes: Sequence[tuple[int, int]]) -> Tensor:
    """(N, 2) normalised (x, y) of all tokens, level by level."""
    centres = []
    for height, width in shapes:
        y, x = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
        centres.append(torch.cartesian_prod(y, x).flip(1))
    return torch.cat(centres)


def inputs_of(
    case: Case, shapes: Sequence[tuple[int, int]], device: str, seed: int = 0
) -> tuple[Any, ...]:
    """Arguments of the case's operator.

    The queries are tokens: all of them, or every n-th. Local sampling locations are normally
    distributed around the query's token, with a standard deviation of two tokens of each level.
    """
    draw = torch.Generator().manual_seed(seed)
    tokens, levels = sum(h * w for h, w in shapes), len(shapes)
    chosen = torch.arange(case.queries) * tokens // case.queries
    points = token_centres(shapes)[chosen].view(1, -1, 1, 2).repeat(1, 1, levels, 1)
    sizes = torch.tensor([[w, h] for h, w in shapes], dtype=torch.float32)[:, None]
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


def measure(
    case: Case, shapes: Sequence[tuple[int, int]], device: str, repeats: int, memory: bool
) -> dict[str, Any]:
    """Measure the compiled operator and its baseline in turns.

    Returns:
        The case with ``baseline`` (its name), ``seconds`` and ``baseline_seconds`` (medians),
        ``speed_up`` (the baseline's time over the compiled operator's, median over rounds),
        ``peak_mib`` and ``baseline_peak_mib`` (beyond the inputs; None where not measured), and
        ``memory_share``, the first over the second.
    """
    inputs, baseline = inputs_of(case, shapes, device), BASELINES[case.operator]
    calls = {name: call_of(case, inputs, name) for name in ("fused", baseline)}
    frame = benchmark(calls, repeats, 1, device, memory)
    ours, theirs = frame.loc["fused"], frame.loc[baseline]
    share = theirs.memory_share_of_first
    return asdict(case) | {
        "baseline": baseline,
        "seconds": ours.seconds,
        "baseline_seconds": theirs.seconds,
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


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", nargs=2, type=int, default=(800, 1066), metavar=("H", "W"))
    parser.add_argument("--strides", nargs="+", type=int, default=(8, 16, 32, 64))
    parser.add_argument(
        "--keep",
        nargs="+",
        type=float,
        default=(1.0, 0.3),
        help="share of the tokens that are queries",
    )
    parser.add_argument("--operators", nargs="+", default=list(BASELINES), choices=BASELINES)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write everything here too")
    args = parser.parse_args()
    if not all(0 < keep <= 1 for keep in args.keep):
        parser.error(f"--keep takes shares of the tokens in (0, 1], got {args.keep}")
    return args


def main() -> int:
    """Measure, print the table, write JSON; the exit status."""
    args = parse()
    reason = why_no_extension()
    if reason is not None:
        print(f"there is nothing to compare: {reason}", file=sys.stderr)
        return 1
    if args.threads:
        torch.set_num_threads(args.threads)
    height, width = args.size
    shapes = tuple((-(-height // s), -(-width // s)) for s in args.strides)
    tokens = sum(h * w for h, w in shapes)
    queries = [max(1, int(tokens * keep)) for keep in args.keep]
    results = []
    plan = list(cases(queries, args.operators, args.dtype))
    for number, case in enumerate(plan, 1):
        print(f"[{number}/{len(plan)}] {case}", file=sys.stderr, flush=True)
        dense = case.queries == max(queries)
        results.append(measure(case, shapes, args.device, args.repeats, dense))
    print(f"{tokens} tokens in levels {shapes}, {torch.get_num_threads()} threads, {args.dtype}")
    print(table(results))
    if args.json:
        report = {
            "command": " ".join(sys.argv),
            "settings": {k: v for k, v in vars(args).items() if k != "json"},
            "machine": describe_machine(args.device),
            "vectors": torch.ops.sparse_encoders.cpu_capability(),
            "load_average": os.getloadavg(),
            "levels": shapes,
            "results": results,
        }
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
