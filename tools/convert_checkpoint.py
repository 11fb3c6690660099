"""Turn a released checkpoint into one of this package's.

    python tools/convert_checkpoint.py IN.pth OUT.pth --family focus_dino

Prints the settings that were found, what became of every tensor, and the config that goes
with OUT; where the package's config differs from the file, writes a ready one beside OUT.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sparse_encoders.checkpoints.converting import convert_file, write_converted
from sparse_encoders.checkpoints.families import FAMILIES
from sparse_encoders.datasets.coco_folder import read_categories


def main() -> int:
    """Convert one file; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", metavar="IN")
    parser.add_argument("target", metavar="OUT")
    parser.add_argument("--family", required=True, choices=FAMILIES)
    parser.add_argument("--num-classes", type=int, help="refuse a file of another number")
    parser.add_argument("--coco80", action="store_true", help="of 91 classes keep COCO's 80")
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="CLASS",
        help="to train on other classes: their number, their names (wolf=dog starts wolf from "
        "COCO's dog), or an annotation file in COCO's format",
    )
    parser.add_argument("--ema", action="store_true", help="take the averaged weights")
    parser.add_argument(
        "--keep-ratio", type=float, nargs="+", help="Sparse DETR's rho; Focus-DETR's, one a layer"
    )
    parser.add_argument("--schedule", help="Lite DETR's, such as 'H3L1-(2+1)x3'")
    parser.add_argument("--num-queries", type=int, help="queries at test time")
    parser.add_argument("--max-per-img", type=int, help="detections of an image")
    parser.add_argument("--names", action="store_true", help="list every tensor left out")
    args = parser.parse_args()
    ratio = args.keep_ratio
    try:
        converted = convert_file(
            args.source,
            args.family,
            num_classes=args.num_classes,
            coco80=args.coco80,
            classes=asked_classes(args.classes),
            averaged=args.ema,
            keep_ratio=ratio[0] if ratio and args.family != "focus_dino" else ratio,
            schedule=args.schedule,
            num_queries=args.num_queries,
            max_per_img=args.max_per_img,
        )
        config = write_converted(converted, args.target)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for line in converted.report(args.names):
        print(line)
    print(f"written: {args.target}" + (f" and its config {config}" if config else ""))
    return 0


def asked_classes(words: list[str] | None) -> int | list[str] | None:
    """A number, names, or the names in an annotation file.

    Raises:
        ValueError: the file is not in COCO's format.
    """
    if words is None or len(words) > 1:
        return words
    if words[0].isdigit():
        return int(words[0])
    return read_categories(Path(words[0])) if words[0].endswith(".json") else words


if __name__ == "__main__":
    sys.exit(main())
