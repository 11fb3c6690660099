#!/usr/bin/env python
r"""Compare pruning strategies on one detector: speed, size, accuracy, in one report.

The demo detector on shapes pictures that it draws, five encoders at three keep ratios:

python tools/compare.py mmdet_configs/dino/dino_lite0_focus_shapes.py --data shapes --train 3 \
    --keep-ratios 0.1 0.3 0.5 --out work_dirs/compare

Your config and data (train.json, val.json, images below a folder), three trainings an encoder:

python tools/compare.py CONFIG --data DATA --train 12 --seeds 3 --out OUT

The same with weights that are trained already:

python tools/compare.py CONFIG --data DATA --checkpoints dense=A.pth focus=B.pth --out OUT
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import DictAction

from sparse_encoders.analysis.compare import Comparison, Derived, compare
from sparse_encoders.analysis.variants import CONTROLS, NAMES
from sparse_encoders.datasets import ShapesSettings


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; attributes are those of :class:`Comparison`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("config", metavar="CONFIG", help="config file, or a name: sparse_encoders::..., mmdet::...")
    add("--out", type=Path, required=True, help="folder of the report and of what is kept")
    add("--encoders", nargs="+", default=Comparison.encoders, help=", ".join(NAMES))
    words = "NAME=ENCODER KEY=VALUE ..."
    add("--variant", dest="derived", nargs="+", action="append", default=[], metavar=words)
    controls = f"do not train {', '.join(CONTROLS)} as well"
    add("--no-controls", dest="controls", action="store_false", help=controls)
    add("--keep-ratios", nargs="+", type=float, default=Comparison.keep_ratios, metavar="R")
    add("--checkpoints", nargs="+", default=[], metavar="NAME=FILE", help="trained weights")
    add("--data", help="'shapes' draws a set, 'config' takes the config's, or a COCO-format folder")
    epochs = "train encoders that have no checkpoint"
    add("--train", dest="epochs", type=int, metavar="EPOCHS", help=epochs)
    add("--seeds", type=int, default=Comparison.seeds, metavar="N", help="trainings an encoder")
    add("--join", nargs="+", type=Path, default=[], metavar="DIR", help="runs of other machines")
    add("--train-ratio", type=float, help="keep ratio in training (the config's, or 0.3)")
    add("--size", type=int, nargs=2, metavar=("H", "W"), help="of the image that is timed")
    add("--device", default="cpu", help="cpu, or such as cuda:0")
    add("--repeats", type=int, help="timed rounds (as many as a minute has, 5 to 30)")
    add("--warmup", type=int, default=Comparison.warmup, help="rounds before them")
    add("--baseline", help="encoder that the others are compared to (dense, or the first)")
    add("--margin", "--ap-noise", type=float, default=Comparison.margin, help="AP that is no gain")
    add("--pictures", type=int, default=Comparison.pictures, help="images to draw tokens on")
    add("--seed", type=int, default=0, help="of training (the first) and drawing")
    add("--shapes", type=int, nargs=2, metavar=("TRAIN", "VAL"), help="pictures of the drawn set")
    add(
        "--cfg-options",
        dest="options",
        nargs="+",
        action=DictAction,
        default={},
        metavar="KEY=VALUE",
    )
    return parser.parse_args(argv)


def checkpoints(given: list[str]) -> dict[str, Path]:
    """NAME=FILE ... as a mapping."""
    pairs = [text.partition("=") for text in given]
    for text, (name, _, path) in zip(given, pairs, strict=True):
        if not (name and path):
            raise ValueError(f"--checkpoints takes NAME=FILE, such as focus=a.pth; got {text!r}")
    return {name: Path(path) for name, _, path in pairs}


def variants(given: list[list[str]]) -> dict[str, Derived]:
    """NAME=ENCODER KEY=VALUE ... as a mapping; a value is YAML, such as 0.3, [0.1, 0.5] or text."""
    found = {}
    for words in given:
        pairs = [word.partition("=") for word in words]
        if not all(name and value for name, _, value in pairs):
            raise ValueError(f"--variant takes NAME=ENCODER KEY=VALUE ..., got {' '.join(words)}")
        (name, _, encoder), *options = pairs
        found[name] = Derived(encoder, {key: yaml.safe_load(value) for key, _, value in options})
    return found


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 where all went well, 1 where a variant failed, 2 for bad input."""
    args = parse_args(argv)
    # end as by Ctrl+C, so that a training process ends too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    command = shlex.join(["python", "tools/compare.py", *(argv or sys.argv[1:])])
    try:
        pictures = dict(zip(("train", "val"), args.shapes or (), strict=False))
        own = {
            "derived": variants(args.derived),
            "checkpoints": checkpoints(args.checkpoints),
            "shapes": ShapesSettings(seed=args.seed, **pictures),
        }
        given: dict[str, Any] = vars(args)
        given = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        report = compare(Comparison(**{**given, **own}, command=command))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    errors = [(row, text) for row in report.rows for text in row.lost or [row.error] if text]
    for row, text in errors:
        print(f"error: {row.label}: {text}", file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    raise SystemExit(main())
