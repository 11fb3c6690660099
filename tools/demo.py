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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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


@dataclass
class DemoSettings:
    """What the demo runs on.

    Attributes:
        config: config to train; the data set is written into it.
        work_dir: where everything is written.
        data: the user's data set; None draws the shapes set.
        scale: longer and shorter side in pixels that images are resized to fit; None: as the
            config says.
        shapes: settings of the shapes set.
        pictures: held-out images to draw.
        options: further ``--cfg-options`` of MMDetection, as KEY=VALUE.
        seed: of the training.
        epochs: length of the training; None: as the config says.
        resume: go on after an interrupted run.
        gpus: GPUs to use; 0 runs on the CPU.
    """

    config: Path
    work_dir: Path
    data: CocoFolder | None = None
    scale: Sequence[int] | None = None
    shapes: ShapesSettings = field(default_factory=ShapesSettings)
    pictures: int = 8
    options: Sequence[str] = ()
    seed: int = 0
    epochs: int | None = None
    resume: bool = False
    gpus: int = 0


@dataclass
class DemoResult:
    """What the demo measured.

    Attributes:
        metrics: pycocotools' box AP as MMDetection names it, such as
            ``coco/bbox_mAP`` and ``coco/bbox_mAP_50``.
        seconds: wall time of each step.
        checkpoint: the trained weights.
        pictures: PNG files written.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    checkpoint: Path = Path()
    pictures: list[Path] = field(default_factory=list)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Note how long a step takes."""
        start = time.perf_counter()
        yield
        self.seconds[step] = time.perf_counter() - start


def run_demo(settings: DemoSettings) -> DemoResult:
    """Draw or check the data, train, test, draw; print how it goes.

    Raises:
        ValueError: the data or the config is not usable, or a step failed.
    """
    check_command()
    if not settings.config.is_file():
        raise ValueError(f"config: there is no file {settings.config}")
    work_dir, gpus, result = settings.work_dir, ["--gpus", str(settings.gpus)], DemoResult()
    work_dir.mkdir(parents=True, exist_ok=True)
    with result.timed("data"):
        folder = settings.data or draw_shapes(settings)
        classes = folder.class_names()
        for split in ("train", "val"):
            folder.image_folder(split)
    print(f"data: classes {', '.join(classes)}; {result.seconds['data']:.0f} s", flush=True)
    with result.timed("train"):
        options = [*epoch_options(settings.epochs), f"randomness.seed={settings.seed}"]
        options += settings.options
        config = write_config(folder, settings)
        train = ["train", "mmdet", str(config), "--work-dir", str(work_dir), *gpus]
        train += ["--resume"] if settings.resume else []
        run_mim([*train, "--cfg-options", *options], work_dir / "train.log")
        result.checkpoint = last_checkpoint(work_dir)
    with result.timed("test"):
        test = ["test", "mmdet", str(config), "--checkpoint", str(result.checkpoint)]
        test += ["--work-dir", str(work_dir / "test"), *gpus]
        run_mim(test, work_dir / "test.log")
        result.metrics = newest_metrics(work_dir / "test")
    with result.timed("pictures"):
        result.pictures = draw_pictures(config, result.checkpoint, folder, settings)
    report(result, work_dir)
    return result


def draw_shapes(settings: DemoSettings) -> CocoFolder:
    """Draw the shapes set below the work folder, or keep it where it is there."""
    root = settings.work_dir / "shapes"

    def progress(done: int, total: int) -> None:
        if done % 100 == 0 or done == total:
            print(f"drew {done}/{total} pictures", flush=True)

    make_shapes_dataset(root, settings.shapes, progress)
    return CocoFolder(root=str(root))


def write_config(folder: CocoFolder, settings: DemoSettings) -> Path:
    """The config with its data set, in the work folder, where the training writes its own.

    Raises:
        ValueError: the config cannot be read, or the data set is not usable.
    """
    old = [option for option in settings.options if option.startswith("coco_folder.")]
    if old:
        raise ValueError(f"{old[0]}: the data set is named by --images and so on, or --scale")
    config = read_config(settings.config)
    use_coco_folder(config, folder, settings.scale)
    path = settings.work_dir / settings.config.name
    config.dump(path)
    return path


def epoch_options(epochs: int | None) -> list[str]:
    """The ``--cfg-options`` that change the length of ``_base_/schedules/short.py``.

    Raises:
        ValueError: fewer than one epoch.
    """
    if epochs is None:
        return []
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")
    return [f"train_cfg.max_epochs={epochs}", f"param_scheduler.1.end={epochs}"]


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
    config: Path, checkpoint: Path, folder: CocoFolder, settings: DemoSettings
) -> list[Path]:
    """Detections on held-out images, the tokens kept on the first of them, AP over training."""
    if settings.pictures < 1:
        return []
    warnings.filterwarnings("ignore", message="torch.meshgrid")  # MMDetection's, not the user's
    model = load_detector(config, checkpoint, "cuda:0" if settings.gpus else "cpu")
    validation = (folder.annotations("val"), folder.image_folder("val"))
    images = choose_images(*validation, settings.pictures)
    records = [drawing.record_tokens(model, image) for image in images]
    drawn = {"detections": drawing.draw_detection_sheet(records)}
    for image, record in zip(images[:4], records, strict=False):
        drawn[f"tokens_{image.stem}"] = drawing.draw_tokens(record)
    evaluations = evaluations_of(read_scalars(settings.work_dir))
    if len(evaluations) > 1:
        drawn["ap_curve"] = draw_evaluations(evaluations)
    return [drawing.save_picture(d, settings.work_dir / f"{n}.png") for n, d in drawn.items()]


def report(result: DemoResult, work_dir: Path) -> None:
    """Print the result and write it as ``result.json``."""
    total = sum(result.seconds.values())
    record = {"metrics": result.metrics, "seconds": result.seconds, "total_seconds": total}
    (work_dir / "result.json").write_text(json.dumps(record, indent=2) + "\n")
    times = ", ".join(f"{name} {s:.0f} s" for name, s in result.seconds.items())
    print(f"checkpoint: {result.checkpoint}")
    for path in result.pictures:
        print(f"picture: {path}")
    print(f"time: {total:.0f} s ({times})")
    print(
        f"box AP {result.metrics['coco/bbox_mAP']:.3f}, "
        f"AP50 {result.metrics['coco/bbox_mAP_50']:.3f} on the held-out images"
    )


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
        data = user_data(args)
        drawn = data is None and args.config is None
        name = "dino_lite0_focus_shapes.py" if data is None else "dino_lite0_focus_coco-folder.py"
        run_demo(
            DemoSettings(
                config=args.config or CONFIGS / name,
                work_dir=args.work_dir,
                data=data,
                scale=args.scale,
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
