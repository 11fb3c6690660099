#!/usr/bin/env python
"""Draw the tokens that each encoder layer keeps, level by level, over an image.

python tools/visualize_tokens.py CONFIG CHECKPOINT IMAGE --out tokens.png
"""

from __future__ import annotations

import argparse
import sys

from sparse_encoders.analysis.inspection import load_detector
from sparse_encoders.analysis.token_pictures import draw_tokens, record_tokens, save_picture


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="config of the detector")
    parser.add_argument("checkpoint", help="its trained weights")
    parser.add_argument("image", help="image to look at")
    parser.add_argument("--out", default="tokens.png", help="PNG file to write")
    parser.add_argument("--min-score", type=float, default=0.3, help="of a detection shown")
    parser.add_argument("--keep-ratio", type=float, help="keep this share instead of the trained")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = parse_args(argv)
    try:
        model = load_detector(args.config, args.checkpoint, args.device)
        if args.keep_ratio is not None:
            model.set_keep_ratio(args.keep_ratio)
        record = record_tokens(model, args.image, args.min_score)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for layer, kept in enumerate(record.kept):
        print(f"layer {layer + 1}: {kept.sum()} of {kept.size} tokens kept ({kept.mean():.1%})")
    print(f"written to {save_picture(draw_tokens(record), args.out)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
