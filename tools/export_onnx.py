"""Write a detector as an ONNX file and compare it with torch in onnxruntime.

    python tools/export_onnx.py CONFIG CHECKPOINT --size 800 1066 OUT.onnx

CHECKPOINT 'none' takes made-up weights: enough to compare and to time.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sparse_encoders.deployment import EXPORTERS
from sparse_encoders.deployment.command import export_and_compare


def main() -> int:
    """Export one detector; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="a path, or sparse_encoders::NAME")
    parser.add_argument("checkpoint", help="a path, or 'none'")
    parser.add_argument("target", metavar="OUT.onnx", type=Path)
    parser.add_argument("--size", nargs=2, type=int, required=True, metavar=("H", "W"))
    parser.add_argument("--image", type=Path, help="compare on it, resized; noise otherwise")
    parser.add_argument("--exporter", choices=EXPORTERS, default=EXPORTERS[0])
    parser.add_argument(
        "--no-normalize", action="store_true", help="the file takes normalised images"
    )
    parser.add_argument(
        "--dynamic-batch", action="store_true", help="the file takes any number of images at once"
    )
    parser.add_argument(
        "--dynamic-size",
        action="store_true",
        help="the file takes images of other sizes, too; --size is that of an example",
    )
    args = parser.parse_args()
    try:
        differences = export_and_compare(
            args.config,
            None if args.checkpoint == "none" else args.checkpoint,
            (args.size[0], args.size[1]),
            args.target,
            exporter=args.exporter,
            normalize=not args.no_normalize,
            picture=args.image,
            dynamic_batch=args.dynamic_batch,
            dynamic_size=args.dynamic_size,
        )
    except (ValueError, TypeError, ImportError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    megabytes = args.target.stat().st_size / 2**20
    print(f"written: {args.target} ({megabytes:.1f} MiB)")
    print(*differences, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
