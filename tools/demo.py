#!/usr/bin/env python
r"""Train a small DINO with Focus pruning, test it, and draw which tokens it kept.

Without a data set it draws one of its own:

python tools/demo.py

On your own, in COCO's format:

python tools/demo.py --train-json DATA/train.json --val-json DATA/val.json \
    --images DATA/images --work-dir work_dirs/mine
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from sparse_encoders.analysis.demo import DemoSettings, run_demo
from sparse_encoders.datasets import CocoFolder, ShapesSettings

# The test after the training measures its last weights: the training does not do so itself.
TEST_ONLY = "train_cfg.val_begin=1000000"
CONFIGS = Path(__file__).resolve().parents[1] / "mmdet_configs" / "dino"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/demo"))
    parser.add_argument("--config", type=Path, help="config to train instead of the demo's")
    parser.add_argument("--train-json", type=Path, help="your training annotations")
    parser.add_argument("--val-json", type=Path, help="your validation annotations")
    parser.add_argument("--images", type=Path, help="folder of your images")
    parser.add_argument("--val-images", type=Path, help="of the validation ones, if another")
    parser.add_argument("--classes", nargs="+", help="classes to learn; all by default")
    parser.add_argument("--seed", type=int, default=0, help="of the drawn set and the training")
    parser.add_argument("--epochs", type=int, help="length of the training (as the config says)")
    parser.add_argument("--pictures", type=int, default=8, help="held-out images to draw")
    parser.add_argument("--gpus", type=int, default=0, choices=(0, 1))
    parser.add_argument("--resume", action="store_true", help="go on after an interrupted run")
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], help="further settings of the config, KEY=VALUE"
    )
    return parser.parse_args(argv)


def user_data(args: argparse.Namespace) -> CocoFolder | None:
    """The data set of the command line; None where none is named."""
    paths = {"--train-json": args.train_json, "--val-json": args.val_json, "--images": args.images}
    missing = [name for name, path in paths.items() if path is None]
    if len(missing) == len(paths):
        return None
    if missing:
        raise ValueError(f"your own data set needs {', '.join(paths)}: {missing} not given")
    return CocoFolder(
        root=".",
        train=str(args.train_json.absolute()),
        val=str(args.val_json.absolute()),
        images=str(args.images.absolute()),
        val_images=str(args.val_images.absolute()) if args.val_images else None,
        classes=args.classes,
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = parse_args(argv)
    # end as by Ctrl+C, so that the training process ends too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        data = user_data(args)
        drawn = data is None and args.config is None
        name = "dino_lite0_focus_shapes.py" if data is None else "dino_lite0_focus_coco-folder.py"
        run_demo(
            DemoSettings(
                config=args.config or CONFIGS / name,
                work_dir=args.work_dir,
                data=data,
                shapes=ShapesSettings(seed=args.seed),
                pictures=args.pictures,
                options=[*([TEST_ONLY] if drawn else []), *args.cfg_options],
                seed=args.seed,
                epochs=args.epochs,
                resume=args.resume,
                gpus=args.gpus,
            )
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
