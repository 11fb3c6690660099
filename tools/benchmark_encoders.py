"""Time and memory of encoders on full-size DINO, interleaved in one run.

python tools/benchmark_encoders.py --size 800 1066 --encoders dense focus --json OUT
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from sparse_encoders.analysis.benchmark import records, table
from sparse_encoders.analysis.encoder_benchmark import PARTS, benchmark_encoders
from sparse_encoders.analysis.machine import describe_machine
from sparse_encoders.analysis.variants import NAMES


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", nargs=2, type=int, default=(800, 1066), metavar=("H", "W"))
    parser.add_argument("--encoders", nargs="+", default=["dense", "focus"], choices=NAMES)
    parser.add_argument("--keep-ratio", type=float, default=0.3, help="average, where pruned")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument(
        "--backends", nargs="+", default=["auto"], help="auto, fused, mmcv, torch; several compare"
    )
    parser.add_argument("--part", default="encoder", choices=PARTS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write everything here too")
    return parser.parse_args()


def main() -> None:
    """Measure, print the table, write JSON."""
    args = parse()
    rows = benchmark_encoders(
        args.encoders,
        tuple(args.size),
        keep_ratio=args.keep_ratio,
        batch=args.batch,
        repeats=args.repeats,
        warmup=args.warmup,
        backends=args.backends,
        part=args.part,
        device=args.device,
        progress=lambda message: print(message, file=sys.stderr, flush=True),
    )
    print(table(rows))
    if args.json:
        settings = {k: v for k, v in vars(args).items() if k != "json"}
        report = {
            "command": " ".join(sys.argv),
            "settings": settings,
            "machine": describe_machine(args.device),
            "rows": records(rows),
        }
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
