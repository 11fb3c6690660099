"""Write a detector as an ONNX file and compare it with torch in onnxruntime.

    python tools/export_onnx.py CONFIG CHECKPOINT --size 800 1066 OUT.onnx

CHECKPOINT 'none' takes made-up weights: enough to compare and to time.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from sparse_encoders.deployment import EXPORTERS, compare_with_onnx, export_onnx, open_onnx
from sparse_encoders.loading import load_detector


def parse() -> argparse.Namespace:
    """The command line."""
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
    return parser.parse_args()


def read_image(path: Path | None, image_hw: tuple[int, int]) -> Tensor:
    """(1, 3, height, width) float32 pixel values in OpenCV's order; noise where path is None.

    Raises:
        FileNotFoundError: no image can be read there.
    """
    if path is None:
        generator = torch.Generator().manual_seed(0)
        return torch.rand(1, 3, *image_hw, generator=generator) * 255
    import cv2

    pixels = cv2.imread(str(path))
    if pixels is None:
        raise FileNotFoundError(f"{path} is no image that OpenCV reads")
    pixels = cv2.resize(pixels, (image_hw[1], image_hw[0]))
    return torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0).float()


def images(args: argparse.Namespace) -> list[Tensor]:
    """The image; with a dynamic batch three in one; with a dynamic size one of another."""
    height, width = args.size
    image = read_image(args.image, (height, width))
    inputs = [image]
    if args.dynamic_batch:
        inputs.append(torch.cat([image, image.flip(3), image.flip(2)]))
    if args.dynamic_size:
        inputs.append(read_image(args.image, (width, height + 32)))
    if args.no_normalize:
        inputs = [(image - 127.5) / 60 for image in inputs]  # about what normalising gives
    return inputs


def main() -> int:
    """Export one detector; the exit status."""
    args = parse()
    normalize = not args.no_normalize
    try:
        inputs = images(args)
        model = load_detector(args.config, None if args.checkpoint == "none" else args.checkpoint)
        export_onnx(
            model,
            (args.size[0], args.size[1]),
            args.target,
            exporter=args.exporter,
            normalize=normalize,
            dynamic_batch=args.dynamic_batch,
            dynamic_size=args.dynamic_size,
        )
        detect = open_onnx(args.target)
        differences = [compare_with_onnx(model, detect, each, normalize) for each in inputs]
    except (ValueError, TypeError, ImportError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    megabytes = args.target.stat().st_size / 2**20
    print(f"written: {args.target} ({megabytes:.1f} MiB)")
    print(*differences, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
