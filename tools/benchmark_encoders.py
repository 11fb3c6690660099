r"""Time and memory of encoders on full-size DINO, interleaved in one run.

    python tools/benchmark_encoders.py --size 800 1066 --encoders dense focus --json OUT

With --sizes, --layers or --ffn: a sweep, inference and training steps, and from which size on an
encoder saves a tenth of the detector's time:

    python tools/benchmark_encoders.py --sizes 160x160 480x640 --layers 1 6 --ffn 512 2048 \
        --encoders dense focus --json OUT --plot OUT.png

--join FILE... adds the rows of earlier sweeps to the table and the picture, and measures only the
settings (size, layers, FFN, pass) that they do not have; alone, it measures nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from measuring import say, size, write_report
from sparse_encoders.analysis import break_even
from sparse_encoders.analysis.benchmark import records, table
from sparse_encoders.analysis.encoder_benchmark import PARTS, benchmark_encoders
from sparse_encoders.analysis.machine import describe_machine
from sparse_encoders.analysis.variants import NAMES

NOT_SETTINGS = ("json", "plot", "join")


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
    parser.add_argument("--sizes", nargs="+", type=size, metavar="HxW", help="of a sweep")
    parser.add_argument("--layers", nargs="+", type=at_least_one, help="of the encoders of a sweep")
    parser.add_argument("--ffn", nargs="+", type=at_least_one, help="FFN widths of a sweep")
    parser.add_argument("--plot", type=Path, metavar="OUT", help="picture of a sweep")
    parser.add_argument(
        "--join", nargs="+", type=Path, default=[], metavar="FILE", help="earlier sweeps (--json)"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write everything here too")
    return parser.parse_args()


def at_least_one(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {text!r}")
    return int(text)


def main() -> None:
    """Measure, print the table, write JSON."""
    args = parse()
    is_sweep = args.sizes or args.layers or args.ffn or args.join
    try:
        rows = measure_sweep(args) if is_sweep else measure(args)
    except ValueError as error:
        sys.exit(f"benchmark_encoders.py: {error}")
    settings = {k: v for k, v in vars(args).items() if k not in NOT_SETTINGS}
    write_report(args.json, settings=settings, machine=machine(args), rows=records(rows))


def only_joins(args: argparse.Namespace) -> bool:
    """Whether earlier sweeps are only drawn and nothing is measured."""
    return bool(args.join) and not (args.sizes or args.layers or args.ffn)


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """Where the rows were measured: this machine, or that of the sweeps that are only drawn."""
    if not only_joins(args):
        return describe_machine(args.device)
    measured_on: dict[str, Any] = json.loads(args.join[0].read_text())["machine"]
    return measured_on


def measure(args: argparse.Namespace) -> pd.DataFrame:
    """One size, with memory; prints the table."""
    given = ("keep_ratio", "batch", "repeats", "warmup", "backends", "part", "device")
    options = {name: getattr(args, name) for name in given}
    rows = benchmark_encoders(args.encoders, tuple(args.size), **options, progress=say)
    print(table(rows))
    return rows


def measure_sweep(args: argparse.Namespace) -> pd.DataFrame:
    """Several sizes, layers and FFNs; prints from which size on each encoder pays."""
    cells = break_even.settings(
        args.sizes or [tuple(args.size)], args.layers or [6], args.ffn or [2048]
    )
    reports = [json.loads(path.read_text()) for path in args.join]
    ratio = reports[0]["settings"]["keep_ratio"] if only_joins(args) else args.keep_ratio
    here = {"machine": machine(args), "settings": {"keep_ratio": ratio}}
    earlier = break_even.joined(reports, here)
    known = break_even.measured(earlier)
    missing = [] if only_joins(args) else [cell for cell in cells if cell not in known]
    rows = break_even.sweep(args.encoders, missing, args.keep_ratio, args.repeats, args.device, say)
    rows = pd.concat([frame for frame in (earlier, rows) if len(frame)], ignore_index=True)
    print(f"smallest image from which on {break_even.WORTH:.0%} of the detector's time is saved")
    print(break_even.smallest_paying(rows).fillna("-").to_markdown(index=False))
    if args.plot:
        break_even.draw(rows).savefig(args.plot, dpi=110)
    return rows


if __name__ == "__main__":
    main()
