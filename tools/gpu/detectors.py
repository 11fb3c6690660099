"""Measure full-size DINO with each encoder: latency by stage, memory, training, host waits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from gpu.settings import KEEP_RATIO, Cases, Settings
from gpu.waiting import waits
from sparse_encoders.analysis.encoder_benchmark import detector_with
from sparse_encoders.analysis.inputs import (
    image_call,
    random_batch,
    training_call,
    under_autocast,
)
from sparse_encoders.analysis.latency import STAGES, StagedCall, Timing, interleaved
from sparse_encoders.analysis.memory import MIB, peak_memory
from sparse_encoders.detectors import batches

TRAINING_BATCH = 2  # images of a training step, the papers' batch size on each GPU


def plan(settings: Settings) -> Cases:
    """Host waits, latency for each batch and dtype, a training step for each dtype."""
    models = Models(settings)
    dtypes = ("float32", "float16" if settings.on_gpu else "bfloat16")
    cases: Cases = {f"waiting, {dtype}": partial(waiting, models, dtype) for dtype in dtypes}
    for batch in settings.batches:
        for dtype in dtypes:
            cases[passes_name(dtype, batch)] = partial(passes, models, dtype, batch)
    for dtype in ("float32", "bfloat16"):
        cases[f"training step, {dtype}"] = partial(training, models, dtype)
    return cases


def passes_name(dtype: str, batch: int) -> str:
    """Name of the case that measures forward passes."""
    return f"passes, {dtype}, batch {batch}"


class Models:
    """Detectors by the short names of their encoders; each is built at its first use and kept."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.built: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        """The detector with this encoder, in evaluation mode, on the settings' device."""
        if name not in self.built:
            sizes: dict[str, Any] = dict(layers=2, ffn=64) if self.settings.tiny else {}
            model = detector_with(name, KEEP_RATIO, **sizes)
            self.built[name] = model.to(self.settings.device)
        return self.built[name].eval()

    def each(self, prepare: Callable[[str], Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """Results of ``prepare`` by encoder, and error messages where it failed."""
        results, errors = {}, {}
        for name in self.settings.encoders:
            try:
                results[name] = prepare(name)
                self.settings.synchronize()
            except Exception as error:  # the other encoders are still measured
                errors[name] = f"{type(error).__name__}: {error}"
        return results, errors


def passes(models: Models, dtype: str, batch: int) -> dict[str, Any]:
    """Time forward passes of all encoders in turns, by stage, and measure their peak memory."""
    settings = models.settings

    def prepare(name: str) -> Callable[[], object]:
        call = image_call(models[name], settings.image_hw, settings.device, batch)
        call = under_autocast(call, settings.device, dtype)
        call()  # warm up: selects kernels and allocates what the later calls reuse
        return call

    return _measure(models, batch, prepare, staged=True)


def training(models: Models, dtype: str) -> dict[str, Any]:
    """Time forward and backward of a training step of all encoders in turns, and their memory."""
    settings = models.settings
    batch = 1 if settings.tiny else TRAINING_BATCH

    def prepare(name: str) -> Callable[[], object]:
        model = models[name].train()
        step = training_call(model, settings.image_hw, settings.device, batch)
        step = under_autocast(step, settings.device, dtype)
        step()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        if bad := [n for n, grad in grads.items() if not grad.isfinite().all()]:
            raise ValueError(f"gradients that are NaN or infinite: {', '.join(bad[:3])} ...")
        return step

    try:
        return _measure(models, batch, prepare)
    finally:
        for model in models.built.values():
            model.eval().zero_grad(set_to_none=True)


def _measure(
    models: Models, batch: int, prepare: Callable[[str], Callable[[], object]], staged: bool = False
) -> dict[str, Any]:
    """Measure the memory of each encoder's call, then the times of all in turns, by stage if asked.

    ``prepare`` makes a call that was run once.
    """
    settings = models.settings
    peaks: dict[str, int] = {}

    def measurable(name: str) -> Any:
        call = prepare(name)
        peaks[name] = peak_memory(call, settings.device)
        return StagedCall(models[name], call) if staged else call

    calls, errors = models.each(measurable)
    timings: dict[str, Timing] = {}
    if calls:
        *_, (_, timings) = interleaved(calls, *settings.rounds, settings.device)
    dense = timings.get("dense")
    rows = {}
    for name, timing in timings.items():
        row: dict[str, Any] = {
            "seconds": timing.median,
            "fastest": timing.spread[0],
            "slowest": timing.spread[1],
            "images_a_second": batch / timing.median,
            "peak_mib": peaks[name] / MIB,
        }
        if dense:
            row["of_dense"], row["rate_of_dense"] = timing.ratio_to(dense), dense.ratio_to(timing)
        if staged:
            row["stages"] = {stage: timing.stage(stage).median for stage in STAGES}
        if staged and dense:
            row["encoder_of_dense"] = timing.stage("encoder").ratio_to(dense.stage("encoder"))
        rows[name] = row
    return {"rows": rows, "batch": batch, "errors": errors}


def waiting(models: Models, dtype: str) -> dict[str, Any]:
    """Count where the host waits for the GPU between the neck's feature maps and the head.

    The counts are sums over a batch of two images of one size and one with a padded image.
    """
    settings = models.settings
    images, samples = random_batch(settings.image_hw, settings.device, 2)
    unpadded, (height, width) = batches.sizes_of(samples), settings.image_hw
    padded = (unpadded[0], [settings.image_hw, (height * 3 // 4, width // 2)])

    @torch.no_grad()
    def prepare(name: str) -> dict[str, int]:
        model = models[name]
        features = model.extract_feat(images)

        def encode_and_decode() -> None:
            for sizes in (unpadded, padded):
                encoded = model.encode(features, *sizes)
                model.decode(model.prepare_queries(encoded, samples), encoded)

        call = under_autocast(encode_and_decode, settings.device, dtype)
        call()  # warm up: what is made once, such as a library's handles, is not counted
        return waits(call, settings.device)

    lines, errors = models.each(prepare)
    counts = {name: sum(n.values()) for name, n in lines.items()}
    return {"lines": lines, "waits": counts, "errors": errors}


def line(result: dict[str, Any]) -> str:
    """Host waits, or time and memory, of each encoder."""
    if "waits" in result:
        return "waits: " + ", ".join(f"{name} {n}" for name, n in result["waits"].items())
    rows = result["rows"].items()
    return ", ".join(
        f"{name} {row['seconds'] * 1e3:.1f} ms {row['peak_mib']:.0f} MiB" for name, row in rows
    )
