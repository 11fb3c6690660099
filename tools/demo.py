#!/usr/bin/env python
r"""Train a small DINO with Focus pruning, test it, and draw which tokens it kept.

Training and testing run by MMDetection's own command, ``mim``, in processes of their own; this
command names the data, and draws. Without a data set it draws one of its own:

python tools/demo.py

On your own, in COCO's format:

python tools/demo.py --train-json DATA/train.json --val-json DATA/val.json \
    --images DATA/images --work-dir work_dirs/mine
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparse_encoders.analysis.inputs import choose_images
from sparse_encoders.analysis.mim import check_command, last_checkpoint, read_scalars, run_mim
from sparse_encoders.datasets import (
    CocoFolder,
    ShapesSettings,
    make_shapes_dataset,
    use_coco_folder,
)
from sparse_encoders.loading import load_detector, read_config
from sparse_encoders.visualization import pictures as drawing
from sparse_encoders.visualization.curves import draw_evaluations, evaluations_of

# The test after the training measures its last weights: the training does not do so itself.
TEST_ONLY = "train_cfg.val_begin=1000000"
CONFIGS = Path(__file__).resolve().parents[1] / "mmdet_configs" / "dino"


def run_demo(args: argparse.Namespace) -> None:
    """Draw or check the data, train, test, draw; print how it goes, and write ``result.json``.

    Args:
        args: the command line, see :func:`parse_args`.

    Raises:
        ValueError: the data or the config is not usable, or a step failed.
    """
    folder = user_data(args)
    check_command()
    name = "dino_lite0_focus_shapes.py" if folder is None else "dino_lite0_focus_coco-folder.py"
    source = args.config or CONFIGS / name
    if not source.is_file():
        raise ValueError(f"config: there is no file {source}")
    work_dir, gpus = args.work_dir, ["--gpus", str(args.gpus)]
    work_dir.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    with timed("data", seconds):
        folder = folder or draw_shapes(work_dir, args.seed)
        classes = folder.class_names()
        for split in ("train", "val"):
            folder.image_folder(split)
    print(f"data: classes {', '.join(classes)}; {seconds['data']:.0f} s", flush=True)
    with timed("train", seconds):
        options = training_options(args)
        config = write_config(source, folder, args)
        train = ["train", "mmdet", str(config), "--work-dir", str(work_dir), *gpus]
        train += ["--resume"] if args.resume else []
        run_mim([*train, "--cfg-options", *options], work_dir / "train.log")
        checkpoint = last_checkpoint(work_dir)
    with timed("test", seconds):
        test = ["test", "mmdet", str(config), "--checkpoint", str(checkpoint)]
        test += ["--work-dir", str(work_dir / "test"), *gpus]
        run_mim(test, work_dir / "test.log")
        metrics = newest_metrics(work_dir / "test")
    with timed("pictures", seconds):
        pictures = draw_pictures(config, checkpoint, folder, args)
    total = sum(seconds.values())
    record = {"metrics": metrics, "seconds": seconds, "total_seconds": total}
    (work_dir / "result.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"checkpoint: {checkpoint}")
    for path in pictures:
        print(f"picture: {path}")
    times = ", ".join(f"{name} {s:.0f} s" for name, s in seconds.items())
    print(f"time: {total:.0f} s ({times})")
    box_ap, ap50 = metrics["coco/bbox_mAP"], metrics["coco/bbox_mAP_50"]
    print(f"box AP {box_ap:.3f}, AP50 {ap50:.3f} on the held-out images")


@contextmanager
def timed(step: str, seconds: dict[str, float]) -> Iterator[None]:
    """Note how long a step takes."""
    start = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - start


def draw_shapes(work_dir: Path, seed: int) -> CocoFolder:
    """Draw the shapes set below the work folder, or keep it where it is there."""

    def progress(done: int, total: int) -> None:
        if done % 100 == 0 or done == total:
            print(f"drew {done}/{total} pictures", flush=True)

    make_shapes_dataset(work_dir / "shapes", ShapesSettings(seed=seed), progress)
    return CocoFolder(root=str(work_dir / "shapes"))


def write_config(source: Path, folder: CocoFolder, args: argparse.Namespace) -> Path:
    """The config with its data set, in the work folder, where the training writes its own.

    Raises:
        ValueError: the config cannot be read, or the data set is not usable.
    """
    old = [option for option in args.cfg_options if option.startswith("coco_folder.")]
    if old:
        raise ValueError(f"{old[0]}: the data set is named by --images and so on, or --scale")
    config = read_config(source)
    use_coco_folder(config, folder, args.scale)
    path: Path = args.work_dir / source.name
    config.dump(path)
    return path


def training_options(args: argparse.Namespace) -> list[str]:
    """The training's ``--cfg-options``; its length is that of ``_base_/schedules/short.py``.

    Raises:
        ValueError: fewer than one epoch.
    """
    options = [f"randomness.seed={args.seed}"]
    if args.epochs is not None:
        if args.epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {args.epochs}")
        options += [f"train_cfg.max_epochs={args.epochs}", f"param_scheduler.1.end={args.epochs}"]
    if args.images is None and args.config is None:
        options.append(TEST_ONLY)
    return [*options, *args.cfg_options]


def newest_metrics(folder: Path) -> dict[str, float]:
    """Metrics that the newest test run below ``folder`` wrote.

    Raises:
        ValueError: there are none.
    """
    files = sorted(folder.glob("*/*.json"), key=lambda path: path.stat().st_mtime)
    for path in reversed(files):
        found = json.loads(path.read_text().splitlines()[-1])
        if "coco/bbox_mAP_50" in found:
            return {k: float(v) for k, v in found.items() if k.startswith("coco/")}
    raise ValueError(f"the test run wrote no box AP below {folder}")


def draw_pictures(
    config: Path, checkpoint: Path, folder: CocoFolder, args: argparse.Namespace
) -> list[Path]:
    """Detections on held-out images, the tokens kept on the first of them, AP over training."""
    if args.pictures < 1:
        return []
    warnings.filterwarnings("ignore", message="torch.meshgrid")  # MMDetection's, not the user's
    model = load_detector(config, checkpoint, "cuda:0" if args.gpus else "cpu")
    validation = (folder.annotations("val"), folder.image_folder("val"))
    images = choose_images(*validation, args.pictures)
    records = [drawing.record_tokens(model, image) for image in images]
    drawn = {"detections": drawing.draw_detection_sheet(records)}
    for image, record in zip(images[:4], records, strict=False):
        drawn[f"tokens_{image.stem}"] = drawing.draw_tokens(record)
    evaluations = evaluations_of(read_scalars(args.work_dir))
    if len(evaluations) > 1:
        drawn["ap_curve"] = draw_evaluations(evaluations)
    return [drawing.save_picture(d, args.work_dir / f"{n}.png") for n, d in drawn.items()]


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
    parser.add_argument(
        "--scale", type=int, nargs=2, metavar=("LONG", "SHORT"), help="sides to fit images into"
    )
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
        run_demo(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
