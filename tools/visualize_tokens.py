#!/usr/bin/env python
r"""Draw what a detector's encoder does with the tokens of an image.

python tools/visualize_tokens.py CONFIG CHECKPOINT IMAGE --out tokens.png
python tools/visualize_tokens.py CONFIG CHECKPOINT IMAGE --out tokens.png \
    --beside sparse CONFIG2 CHECKPOINT2 --beside lite CONFIG3 CHECKPOINT3
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sparse_encoders.loading import load_detector
from sparse_encoders.visualization.pictures import (
    PICTURES,
    TokenRecord,
    record_tokens,
    write_pictures,
    write_side_by_side,
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config of the detector")
    parser.add_argument("checkpoint", help="its trained weights")
    parser.add_argument("image", help="image to look at")
    parser.add_argument(
        "--out",
        default="tokens.png",
        help="PNG file of the kept tokens; the other pictures get _scores, _objects, _levels and "
        "_layers before the suffix",
    )
    parser.add_argument(
        "--pictures",
        nargs="+",
        choices=list(PICTURES),
        help="pictures of the first detector (default: all that its encoder has something for)",
    )
    parser.add_argument("--name", help="of the first detector beside others (default: its encoder)")
    parser.add_argument(
        "--beside",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "CONFIG", "CHECKPOINT"),
        help="draw another detector side by side with the first, by level and by layer; repeatable",
    )
    parser.add_argument("--min-score", type=float, default=0.3, help="of a detection shown")
    parser.add_argument("--keep-ratio", type=float, help="keep this share instead of the trained")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(argv)


def look(
    config: str, checkpoint: str, args: argparse.Namespace, beside: bool = False
) -> TokenRecord:
    """What one detector does with the image; of those beside it, not all have a keep ratio."""
    model = load_detector(config, checkpoint, args.device)
    if args.keep_ratio is not None and not (beside and model.encoder.selector is None):
        model.set_keep_ratio(args.keep_ratio)
    return record_tokens(model, args.image, args.min_score)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = parse_args(argv)
    try:
        record = look(args.config, args.checkpoint, args)
        for layer, kept in enumerate(record.kept):
            print(
                f"layer {layer + 1}: {kept.sum()} of {record.valid.sum()} tokens kept "
                f"({record.share(layer):.1%})"
            )
        written = write_pictures(record, args.out, args.pictures)
        records = {args.name or record.strategy: record}
        for name, config, checkpoint in args.beside:
            if name in records:
                raise ValueError(f"--beside: the name {name!r} is there twice")
            records[name] = look(config, checkpoint, args, beside=True)
        if args.beside:
            written += write_side_by_side(records, Path(args.out))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path in written:
        print(f"written to {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
