"""For the tests of comparisons: a small config, and a report with made-up numbers."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sparse_encoders.analysis.report import Report, Row
from sparse_encoders.analysis.variants import is_control

FOCUS = str(Path(__file__).parents[1] / "mmdet_configs/dino/dino_lite0_focus_shapes.py")
#: settings of it that train and test in a moment
SMALL = {
    "model.num_queries": 20,
    "model.test_cfg.max_per_img": 20,
    "model.backbone.weights": None,
    "train_dataloader.batch_size": 2,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "test_dataloader.num_workers": 0,
    "test_dataloader.persistent_workers": False,
    "default_hooks.logger.interval": 1,
}
SMALL_OPTIONS = ["--cfg-options", *(f"{key}={value}" for key, value in SMALL.items())]
MACHINE = dict(
    processor="Intel <Xeon>",
    cores=2,
    threads=2,
    device="cpu",
    cpu_capability="AVX512",
    system="Linux x86_64",
    python="3.11",
    versions=dict(torch="2.13.0"),
)
PARTS = ("backbone", "neck", "encoder.values", "encoder.ffn", "decoder", "head")


def accuracy(
    ap: float, corr: float, noise: float = 0.004, seed: int = 0, run: int | None = None
) -> dict:
    """One run's metrics, and AP of resampled images that all share but for ``noise``."""
    shared = np.random.default_rng(0).normal(0, 0.02, 100)
    own = np.random.default_rng(seed).normal(0, noise, 100)
    metrics = {"coco/bbox_mAP": ap, "coco/bbox_mAP_50": min(1.0, ap * 1.5)}
    metrics.update({f"coco/bbox_mAP_{s}": ap * f for s, f in (("75", 1.1), ("s", 0.5), ("m", 0.9))})
    metrics.update({"coco/bbox_mAP_l": None, "tokens/corr_all": corr, "tokens/recall": corr})
    return {"seed": run, "metrics": metrics, "resamples": list(ap + shared + own), "images": 87}


def row(
    encoder: str,
    ratio: float | None,
    ap: float | Sequence[float] | None,
    time: float,
    madds: float,
    noise: float = 0.004,
) -> Row:
    """One variant whose encoder takes ``time`` seconds and ``madds`` G; AP may be of many runs."""
    aps = [] if ap is None else [ap] if isinstance(ap, float) else list(ap)
    corr = 1.0 if ratio is None else 0.5 + ratio / 2
    costs = {"encoder.values": madds * 0.3, "encoder.ffn": madds * 0.7}
    whole = {"backbone": 0.6, "neck": 0.05, "decoder": 0.4, "head": 0.05, **costs}
    weights = {"source": "trained", "epochs": 3, "seconds": 100.0, "losses": (30.0, 12.0)}
    weights["trained_keep_ratio"] = None if ratio is None else 0.3
    drift = (1.0, 1.3, 0.9, 1.1, 1.0)
    return Row(
        encoder,
        ratio,
        weights=weights,
        complexity={
            "parts": {p: {"madds": int(whole[p] * 1e9), "parameters": 10**6} for p in PARTS}
        },
        memory_mib=40 + 60 * time,
        rounds=[tuple(d * t for t in (0.02, 0.002, time, 0.03)) for d in drift],
        control=is_control(encoder),
        runs=[
            accuracy(ap, corr, noise, int(ap * 1e4), run if len(aps) > 1 else None)
            for run, ap in enumerate(aps)
        ],
    )


def report(rows: list[Row] | None = None, pictures: int = 1) -> Report:
    """Five encoders, as they might come out."""
    if rows is None:
        rows = [row("dense", None, 0.552, 0.060, 2.0)]
        for name, best, drop, time in (
            ("sparse", 0.541, 0.10, 0.030),
            ("focus", 0.549, 0.06, 0.028),
        ):
            rows += [
                row(name, r, best - drop * (0.5 - r) ** 2 / 0.04, time * (0.4 + 1.5 * r), 0.3 + r)
                for r in (0.5, 0.3, 0.1)
            ]
        rows += [row("lite", None, 0.545, 0.027, 0.9)]
        rows += [
            row("lite-focus", r, 0.54 - 0.05 * (0.5 - r) ** 2 / 0.04, 0.02 * (0.5 + r), 0.3 + r / 2)
            for r in (0.5, 0.3, 0.1)
        ]
    image = io.BytesIO()
    Image.fromarray(np.full((20, 60, 3), 90, np.uint8)).save(image, "JPEG")
    jpeg = base64.b64encode(image.getvalue()).decode()
    return Report(
        command="python tools/compare.py CONFIG --data cells --out work_dirs/cells",
        config="mmdet_configs/dino/dino_lite0_focus_coco-folder.py",
        detector="sparse_encoders.DINO",
        size=(240, 320),
        device="cpu",
        warmup=1,
        seed=0,
        margin=0.01,
        baseline=next(r.label for r in rows),
        machine=MACHINE,
        data=dict(
            name="cells", classes=("a", "b"), validated=87, boxes=900, trained=205, digest="0"
        ),
        rows=rows,
        pictures=[dict(title=f"image {i}.png", jpeg=jpeg) for i in range(pictures)],
        seconds=700.0,
    )
