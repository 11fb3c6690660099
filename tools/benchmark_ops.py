"""Time and memory of the compiled operators against MMCV's and plain PyTorch's, in one run.

python tools/benchmark_ops.py --json OUT

Deformable attention is compared with MMCV's path from the same raw offsets and logits (its CPU
fallback, or its CUDA operator), key-aware attention with its plain PyTorch form.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch

from measuring import say, write_report
from sparse_encoders.analysis.machine import describe_machine
from sparse_encoders.analysis.operator_benchmark import BASELINES, cases, measure, table
from sparse_encoders.ops import why_no_extension


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
        say(f"there is nothing to compare: {reason}")
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
        say(f"[{number}/{len(plan)}] {case}")
        dense = case.queries == max(queries)
        results.append(measure(case, shapes, args.device, args.repeats, dense))
    print(f"{tokens} tokens in levels {shapes}, {torch.get_num_threads()} threads, {args.dtype}")
    print(table(results))
    write_report(
        args.json,
        settings={k: v for k, v in vars(args).items() if k != "json"},
        machine=describe_machine(args.device),
        vectors=torch.ops.sparse_encoders.cpu_capability(),
        load_average=os.getloadavg(),
        levels=shapes,
        results=results,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
