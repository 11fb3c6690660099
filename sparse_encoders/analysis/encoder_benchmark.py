"""Time and memory of encoders on the same detector, in one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from torch import nn

import sparse_encoders  # noqa: F401  (registers the package)
from sparse_encoders.analysis.inputs import image_call
from sparse_encoders.analysis.latency import Timing, interleaved
from sparse_encoders.analysis.memory import MIB, peak_memory
from sparse_encoders.analysis.quiet import quiet
from sparse_encoders.analysis.variants import encoder_config
from sparse_encoders.loading import read_config
from sparse_encoders.tokens import TokenGrid

STRIDES = (8, 16, 32, 64)
PARTS = ("encoder", "detector")


@dataclass(frozen=True)
class Row:
    """One encoder's line of the table.

    Attributes:
        encoder: short name.
        seconds: median of the encoder's forward pass.
        fastest, slowest: of all rounds, in seconds.
        share_of_first: median over rounds of its time over the first encoder's.
        peak_mib: memory beyond weights and input, in MiB; None where unknown.
        memory_share_of_first: of the first encoder's peak.
    """

    encoder: str
    seconds: float
    fastest: float
    slowest: float
    share_of_first: float
    peak_mib: float | None
    memory_share_of_first: float | None


def detector_with(name: str, keep_ratio: float, backend: str, seed: int = 0) -> nn.Module:
    """Full-size DINO (ResNet-50 widths, 6 + 6 layers) with the named encoder, untrained."""
    init_default_scope("mmdet")
    model = _dino_config()
    model.type = "sparse_encoders.DINO"
    model.attention_backend = backend
    model.encoder = encoder_config(name, model.encoder, keep_ratio)
    model.backbone.init_cfg = None
    torch.manual_seed(seed)
    with quiet():
        built = MODELS.build(model)
        built.init_weights()
    return built.eval()


def level_shapes(image_hw: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """(h, w) of the four levels of an image of (height, width) pixels."""
    return tuple((-(-image_hw[0] // s), -(-image_hw[1] // s)) for s in STRIDES)


def random_tokens(
    image_hw: tuple[int, int], batch: int, device: torch.device | str, channels: int = 256
) -> TokenGrid:
    """Tokens of random features at the detector's scale."""
    generator = torch.Generator().manual_seed(0)
    maps = [
        [torch.randn(batch, channels, h, w, generator=generator).to(device) for _ in range(2)]
        for h, w in level_shapes(image_hw)
    ]
    return TokenGrid.from_maps([m[0] for m in maps], [m[1] for m in maps], image_hw=image_hw)


@torch.no_grad()
def benchmark_encoders(
    names: Sequence[str],
    image_hw: tuple[int, int],
    keep_ratio: float = 0.3,
    batch: int = 1,
    repeats: int = 5,
    warmup: int = 1,
    backends: Sequence[str] = ("auto",),
    part: str = "encoder",
    device: str = "cpu",
    progress: Callable[[str], None] = lambda message: None,
) -> list[Row]:
    """Time each encoder's forward pass, interleaved, and measure its peak memory.

    Args:
        names: encoders by their short names; shares are of the first.
        image_hw: (height, width) in pixels.
        keep_ratio: average keep ratio of those that prune.
        batch: images.
        repeats: timed rounds.
        warmup: rounds before them.
        backends: attention backends; with several, each encoder is measured on
            each and named 'encoder/backend'.
        part: 'encoder', or 'detector' for the whole forward pass from pixels on.
        device: 'cpu' or a CUDA device.
        progress: is told what is going on.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {PARTS}, got {part!r}")
    calls: dict[str, Callable[[], object]] = {}
    for name in names:
        for backend in backends:
            label = name if len(backends) == 1 else f"{name}/{backend}"
            progress(f"building DINO with {label}")
            model = detector_with(name, keep_ratio, backend).to(device)
            if part == "encoder":
                calls[label] = _encode(model, random_tokens(image_hw, batch, device))
            else:
                calls[label] = image_call(model, image_hw, device, batch)
    names = list(calls)
    peaks = {}
    for name, call in calls.items():
        progress(f"memory of {name}")
        call()
        peaks[name] = peak_memory(call, device)
    timings: dict[str, Timing] = {}
    for done, timings in interleaved(calls, repeats, warmup, device):
        state = ", ".join(f"{n} {t.seconds[-1]:.2f} s" for n, t in timings.items())
        progress(f"round {done} of {repeats}: {state}")
    first, first_peak = timings[names[0]], peaks[names[0]]
    return [
        Row(
            encoder=name,
            seconds=timings[name].median,
            fastest=timings[name].spread[0],
            slowest=timings[name].spread[1],
            share_of_first=timings[name].ratio_to(first),
            peak_mib=None if (peak := peaks[name]) is None else peak / MIB,
            memory_share_of_first=None if not (peak and first_peak) else peak / first_peak,
        )
        for name in names
    ]


def table(rows: Sequence[Row]) -> str:
    """The rows as text for a terminal."""
    first = rows[0].encoder
    lines = [
        f"{'encoder':<20}{'median s':>10}{'fastest':>10}{'slowest':>10}{'of ' + first:>12}"
        f"{'peak MiB':>11}{'of ' + first:>12}"
    ]
    for row in rows:
        peak = "-" if row.peak_mib is None else f"{row.peak_mib:.0f}"
        share = "-" if row.memory_share_of_first is None else f"{row.memory_share_of_first:.2f}"
        lines.append(
            f"{row.encoder:<20}{row.seconds:>10.3f}{row.fastest:>10.3f}{row.slowest:>10.3f}"
            f"{row.share_of_first:>12.3f}{peak:>11}{share:>12}"
        )
    return "\n".join(lines)


def as_records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows for JSON."""
    return [asdict(row) for row in rows]


def _encode(model: Any, tokens: TokenGrid) -> Callable[[], object]:
    return lambda: model.encoder(tokens, model.detector_parts()).memory


def _dino_config() -> Any:
    return read_config("mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py").model
