#!/usr/bin/env python
"""Draw the shapes detection set, in COCO format.

python tools/make_shapes_dataset.py data/shapes --train 400 --val 100 --size 160 --seed 0
"""

from __future__ import annotations

import argparse
import sys
import time

from sparse_encoders.datasets.shapes import ShapesSettings, make_shapes_dataset


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ShapesSettings()
    parser.add_argument("out", help="folder to write: train.json, val.json and images/")
    parser.add_argument("--train", type=int, default=default.train, help="training pictures")
    parser.add_argument("--val", type=int, default=default.val, help="validation pictures")
    parser.add_argument("--size", type=int, default=default.size, help="longer side in pixels")
    parser.add_argument("--min-side", type=float, default=default.min_side, help="in pixels")
    parser.add_argument("--max-objects", type=int, default=default.max_objects)
    parser.add_argument("--seed", type=int, default=default.seed)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = vars(parse_args(argv))
    out = args.pop("out")
    start = time.perf_counter()

    def progress(done: int, total: int) -> None:
        if done % 50 == 0 or done == total:
            print(f"drew {done}/{total} pictures ({time.perf_counter() - start:.0f} s)", flush=True)

    try:
        drawn = make_shapes_dataset(out, ShapesSettings(**args), progress)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"shapes set {'written to' if drawn else 'is already complete in'} {out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
