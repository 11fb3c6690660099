"""Memory and time of training steps, with and without gradient checkpointing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from sparse_encoders.analysis.encoder_benchmark import detector_with
from sparse_encoders.analysis.latency import Timing, interleaved
from sparse_encoders.analysis.memory import MIB, peak_memory

OBJECTS = 8  # boxes of an image


@dataclass(frozen=True)
class TrainingStep:
    """What a step, forward and backward, of one encoder costs.

    Attributes:
        encoder: short name.
        num_cp: checkpointed layers.
        peak_mib: memory beyond weights, their gradients and the input, in MiB; None where unknown.
        seconds: median of a step.
        fastest, slowest: of all rounds, in seconds.
    """

    encoder: str
    num_cp: int
    peak_mib: float | None
    seconds: float
    fastest: float
    slowest: float


def measure_training(
    names: Sequence[str],
    image_hw: tuple[int, int],
    num_cps: Sequence[int] = (0, 6),
    keep_ratio: float = 0.3,
    batch: int = 1,
    repeats: int = 3,
    device: str = "cpu",
    progress: Callable[[str], None] = lambda message: None,
) -> list[TrainingStep]:
    """Measure training steps of full-size DINO, untrained, on random images.

    Args:
        names: encoders by their short names, see :data:`analysis.variants.VARIANTS`.
        image_hw: (height, width) in pixels.
        num_cps: each encoder is measured with so many checkpointed layers.
        keep_ratio: average keep ratio of those that prune.
        batch: images of a step.
        repeats: timed rounds, the candidates of an encoder in turns.
        device: 'cpu' or a CUDA device.
        progress: is told what is going on.

    Raises:
        ValueError: an unknown encoder, or more checkpointed layers than it has.
    """
    rows = []
    for name in names:
        model: Any = detector_with(name, keep_ratio, "auto").to(device).train()
        layers = model.encoder.num_layers
        wrong = [count for count in num_cps if not 0 <= count <= layers]
        if wrong or not num_cps:
            raise ValueError(f"num_cps must be some of 0 to {layers} layers, got {list(num_cps)}")
        run = _step(model, image_hw, batch, device)
        calls = {str(count): _with(model, count, run) for count in num_cps}
        peaks = {}
        for label, call in calls.items():
            progress(f"{name}, {label} layers checkpointed: memory")
            call()  # allocates the gradients, which belong to the weights
            peaks[label] = peak_memory(call, device)
        timings: dict[str, Timing] = {}
        for done, timed in interleaved(calls, repeats, 0, device):
            timings = timed
            progress(f"{name}: round {done} of {repeats}")
        for label, peak in peaks.items():
            timing = timings[label]
            mib = None if peak is None else peak / MIB
            rows.append(TrainingStep(name, int(label), mib, timing.median, *timing.spread))
    return rows


def table(rows: Sequence[TrainingStep]) -> str:
    """Markdown, shares of the same encoder's first row."""
    lines = [
        "| encoder | checkpointed layers | peak MiB | share | seconds | share |",
        "|" + " --- |" * 6,
    ]
    first: dict[str, TrainingStep] = {}
    for row in rows:
        base = first.setdefault(row.encoder, row)
        peak, share = "-", "-"
        if row.peak_mib is not None and base.peak_mib:
            peak, share = f"{row.peak_mib:.0f}", f"{row.peak_mib / base.peak_mib:.2f}"
        lines.append(
            f"| {row.encoder} | {row.num_cp} | {peak} | {share} | {row.seconds:.2f} "
            f"| {row.seconds / base.seconds:.2f} |"
        )
    return "\n".join(lines)


def as_records(rows: Sequence[TrainingStep]) -> list[dict[str, Any]]:
    """The rows for JSON."""
    return [asdict(row) for row in rows]


def _with(model: Any, num_cp: int, run: Callable[[], object]) -> Callable[[], object]:
    def call() -> None:
        model.encoder.num_cp = num_cp
        run()

    return call


def _step(model: Any, image_hw: tuple[int, int], batch: int, device: str) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    height, width = image_hw
    images = torch.randn(batch, 3, height, width, generator=generator).to(device)
    about = dict(img_shape=image_hw, ori_shape=image_hw, batch_input_shape=image_hw)
    samples = []
    for _ in range(batch):
        sides = torch.tensor([width, height])
        corner = torch.rand(OBJECTS, 2, generator=generator) * sides * 0.6
        far = corner + torch.rand(OBJECTS, 2, generator=generator) * sides * 0.3 + 4
        labels = torch.randint(model.bbox_head.num_classes, (OBJECTS,), generator=generator)
        sample = DetDataSample(metainfo=about)
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([corner, far], 1).to(device), labels=labels.to(device)
        )
        samples.append(sample)

    def run() -> None:
        model.zero_grad(set_to_none=False)
        loss, _ = model.parse_losses(model(images, samples, mode="loss"))
        loss.backward()

    return run
