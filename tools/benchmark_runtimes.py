"""A detector in torch beside its exported file in onnxruntime and OpenVINO, in one run.

    python tools/benchmark_runtimes.py --size 800 1066 --encoders dense focus lite --json OUT

DINO with ResNet-50 and made-up weights, one image of noise, on torch's threads.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from export_onnx import read_image
from measuring import say, write_report
from sparse_encoders.analysis.benchmark import benchmark, records, table
from sparse_encoders.analysis.machine import describe_machine
from sparse_encoders.analysis.variants import VARIANTS, encoder_config
from sparse_encoders.deployment import (
    RUNTIMES,
    ImageToDetections,
    compare_with_onnx,
    export_onnx,
    open_onnx,
)
from sparse_encoders.loading import load_detector, read_config


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--config", default="sparse_encoders::dino/dino-4scale_r50_focus_8xb2-36e_coco.py"
    )
    parser.add_argument("--size", nargs=2, type=int, default=(800, 1066), metavar=("H", "W"))
    parser.add_argument("--encoders", nargs="+", default=["dense", "focus"], choices=VARIANTS)
    parser.add_argument("--keep-ratio", type=float, default=0.3, help="average, where pruned")
    parser.add_argument("--runtimes", nargs="+", default=list(RUNTIMES), choices=RUNTIMES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write everything here too")
    return parser.parse_args()


@torch.no_grad()
def main() -> None:
    """Export, compare, time in turns, print the tables, write JSON."""
    args = parse()
    size = (args.size[0], args.size[1])
    image = read_image(None, size)
    calls: dict[str, Any] = {}
    differences: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.encoders:
            say(f"exporting DINO with {name}")
            config = read_config(args.config)
            ratio = args.keep_ratio if "selector" in VARIANTS[name] else None
            config.model.encoder = encoder_config(name, config.model.encoder, ratio)
            model = load_detector(config, None)
            file = Path(folder) / f"{name}.onnx"
            export_onnx(model, size, file)
            detect = ImageToDetections(model, size).eval()
            calls[f"{name}, torch"] = lambda detect=detect: detect(image)
            for runtime in args.runtimes:
                label = f"{name}, {runtime}"
                run = open_onnx(file, runtime)
                differences[label] = str(compare_with_onnx(model, file, image, runtime=runtime))
                say(f"{label}: {differences[label]}")
                calls[label] = lambda run=run: run(image)
        frame = benchmark(calls, args.repeats, memory=False, say=say).rename_axis("detector")
    frame = frame.drop(columns=["peak_mib", "memory_share_of_first"])
    print(table(frame))
    for label, difference in differences.items():
        print(f"{label}: {difference.split(';')[0]}")
    write_report(
        args.json,
        settings={k: str(v) for k, v in vars(args).items() if k != "json"},
        machine=describe_machine("cpu"),
        rows=records(frame),
        differences=differences,
    )


if __name__ == "__main__":
    main()
