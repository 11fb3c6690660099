"""Peak memory of training steps of full-size DINO by image size, batch, boxes and encoder.

python tools/measure_memory.py --sizes 480x640 800x1066 --batches 1 2 --encoders dense focus
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from measuring import say, size, write_report
from sparse_encoders.analysis.machine import describe_machine
from sparse_encoders.analysis.training_memory import SETTINGS, training_memory
from sparse_encoders.analysis.variants import VARIANTS


def main() -> int:
    """Measure, print the table, write JSON; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=size, default=[(480, 640)], metavar="HxW")
    parser.add_argument("--batches", nargs="+", type=int, default=[1])
    parser.add_argument("--boxes", nargs="+", type=int, default=[8], help="of each image")
    parser.add_argument("--encoders", nargs="+", default=["dense", "focus"], choices=VARIANTS)
    parser.add_argument("--settings", nargs="+", default=["float32"], choices=SETTINGS)
    parser.add_argument("--keep-ratio", type=float, default=0.3, help="average, where pruned")
    parser.add_argument("--max-boxes", type=int, help="so many of an image are denoised")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write everything here too")
    args = parser.parse_args()
    table = training_memory(
        args.encoders,
        args.sizes,
        args.batches,
        args.boxes,
        args.settings,
        args.keep_ratio,
        args.max_boxes,
        args.device,
        say,
    )
    print(f"MiB that the allocator of {args.device} holds at the peak of a training step")
    print(table.reset_index().to_markdown(index=False))
    rows = table.reset_index().to_dict("records")
    write_report(args.json, machine=describe_machine(args.device), rows=rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
