"""Memory and time of training steps of full-size DINO, with and without gradient checkpointing.

python tools/measure_training.py --size 480 640 --encoders dense focus --num-cp 0 6 --json OUT
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from measuring import say, write_report
from sparse_encoders.analysis.benchmark import records, table
from sparse_encoders.analysis.encoder_benchmark import measure_training
from sparse_encoders.analysis.machine import describe_machine
from sparse_encoders.analysis.variants import VARIANTS


def main() -> int:
    """Measure, print the table, write JSON; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", nargs=2, type=int, default=(480, 640), metavar=("H", "W"))
    parser.add_argument("--encoders", nargs="+", default=["dense", "focus"], choices=VARIANTS)
    parser.add_argument("--num-cp", nargs="+", type=int, default=[0, 6], metavar="LAYERS")
    parser.add_argument("--keep-ratio", type=float, default=0.3, help="average, where pruned")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write everything here too")
    args = parser.parse_args()
    try:
        rows = measure_training(
            args.encoders,
            tuple(args.size),
            num_cps=args.num_cp,
            keep_ratio=args.keep_ratio,
            batch=args.batch,
            repeats=args.repeats,
            device=args.device,
            progress=say,
        )
    except ValueError as error:
        say(f"error: {error}")
        return 1
    print(table(rows, "its first line"))
    write_report(args.json, machine=describe_machine(args.device), rows=records(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
