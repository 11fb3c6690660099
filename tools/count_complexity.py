"""Count a detector's multiply-adds and parameters by part.

    python tools/count_complexity.py CONFIG --size 850 1040 --json out.json
    python tools/count_complexity.py --published --markdown docs/complexity.md

The second line counts the published models and writes the tables into docs/complexity.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from mmengine.config import DictAction

from published_models import IMAGE_HW, as_records, compare_published, tables, write_tables
from sparse_encoders.analysis.complexity import count_complexity, model_of_config


def main() -> int:
    """Count; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "config", nargs="?", help="of a DETR detector: a file, or a name as sparse_encoders::..."
    )
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("HEIGHT", "WIDTH"),
        help=f"of the image in pixels; {IMAGE_HW[0]} {IMAGE_HW[1]}",
    )
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, default={})
    parser.add_argument(
        "--no-auxiliary-heads",
        dest="auxiliary_heads",
        action="store_false",
        help="leave out the encoder's heads for training losses (Sparse DETR's), which the "
        "released code runs at test time, too, and this package does not",
    )
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument(
        "--published", action="store_true", help="count the published models instead of a config"
    )
    parser.add_argument("--markdown", type=Path, help="write their tables between its two marks")
    parser.add_argument("--configs", type=Path, default=Path(__file__).parents[1] / "mmdet_configs")
    args = parser.parse_args()
    alone = not (args.config or args.size or args.cfg_options) and args.auxiliary_heads
    if args.published != alone or (args.markdown and not args.published):
        parser.error("give either CONFIG with its options, or --published (with --markdown)")
    try:
        record = published(args) if args.published else one(args)
        if args.json:
            args.json.write_text(json.dumps(record, indent=2) + "\n")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def one(args: argparse.Namespace) -> object:
    """Count one config."""
    model = model_of_config(args.config, args.cfg_options)
    size = tuple(args.size or IMAGE_HW)
    counted = count_complexity(model, size, args.auxiliary_heads)
    print(counted.as_table())
    trained_only = counted.parts["encoder.auxiliary"].madds
    if trained_only:
        print(
            f"of which {trained_only / 1e9:.2f} G, the auxiliary heads, run in training only here"
        )
    return {"config": args.config, "auxiliary_heads": args.auxiliary_heads, **counted.as_record()}


def published(args: argparse.Namespace) -> object:
    """Count the published models."""
    rows = list(compare_published(args.configs, lambda name: print(name, file=sys.stderr)))
    print(tables(rows))
    if args.markdown:
        write_tables(args.markdown, rows)
    return as_records(rows)


if __name__ == "__main__":
    sys.exit(main())
