"""Check and time the encoders under ``torch.compile`` and as CUDA graphs."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gpu.detectors import Models
from gpu.settings import Settings
from sparse_encoders.analysis.encoder_benchmark import random_tokens
from sparse_encoders.analysis.latency import interleaved
from sparse_encoders.tokens import TokenGrid

ENCODERS = ("dense", "focus", "lite")
#: allowed difference of the encoder's output, relative to its largest value
TOLERANCE = {"float32": 1e-3, "float16": 3e-2}


def plan(settings: Settings) -> dict[str, Callable[[], dict[str, Any]]]:
    """The cases: ``torch.compile`` everywhere, CUDA graphs only on a GPU."""
    models = Models(settings)
    names = ENCODERS[:2] if settings.tiny else ENCODERS
    cases: dict[str, Callable[[], dict[str, Any]]] = {}
    if settings.on_gpu:
        for dtype in TOLERANCE:
            for name in names:
                cases[f"CUDA graph, {name}, {dtype}"] = partial(graph, models, name, dtype)
    for name in names:
        cases[f"torch.compile, {name}, float32"] = partial(compiled, models, name)
    return cases


class Encoding(nn.Module):
    """An encoder whose inputs and output are plain tensors, as compilation needs.

    Args:
        model: a detector of this package.
        image_hw: (height, width) in pixels.
    """

    def __init__(self, model: Any, image_hw: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.image_hw = model, image_hw

    def forward(self, maps: list[Tensor], pos_embed: list[Tensor]) -> Tensor:
        """Encode (B, C, h, w) features and pos_embed of each level; (B, N, C) memory."""
        tokens = TokenGrid.from_maps(maps, pos_embed, image_hw=self.image_hw)
        memory: Tensor = self.model.encoder(tokens, self.model.detector_parts()).memory
        return memory


@torch.no_grad()
def compiled(models: Models, name: str) -> dict[str, Any]:
    """Compile an encoder as one graph; compare its output with eager mode, and time both."""
    settings = models.settings
    encoding = Encoding(models[name], settings.image_hw)
    inputs = _inputs(settings)
    expected = encoding(*inputs)
    torch._dynamo.reset()
    # on a CPU inductor takes minutes and does not show whether it works on a GPU
    backend = "inductor" if settings.on_gpu else "aot_eager"
    function = torch.compile(encoding, fullgraph=True, backend=backend)
    start = time.perf_counter()
    output = function(*inputs)
    settings.synchronize()
    seconds = time.perf_counter() - start
    result = {"backend": backend, "compiling_seconds": seconds}
    result |= compare_outputs(output, expected, "float32")
    return result | _timed(lambda: encoding(*inputs), lambda: function(*inputs), settings)


@torch.no_grad()
def graph(models: Models, name: str, dtype: str) -> dict[str, Any]:
    """Capture an encoder as a CUDA graph, replay it on other input, compare and time it."""
    settings = models.settings
    encoding = Encoding(models[name], settings.image_hw)
    inputs = _inputs(settings)
    # no cache: autocast frees the cached weights on exit, while the graph still reads them
    with torch.autocast("cuda", getattr(torch, dtype), dtype != "float32", cache_enabled=False):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                encoding(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        cuda_graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(cuda_graph):
            output = encoding(*inputs)
        for tensors in inputs:
            for tensor in tensors:
                tensor.copy_(tensor.flip(-1) * 0.5)
        expected = encoding(*inputs).clone()
        cuda_graph.replay()
        result = compare_outputs(output, expected, dtype)
        return result | _timed(lambda: encoding(*inputs), cuda_graph.replay, settings)


def _inputs(settings: Settings) -> tuple[list[Tensor], list[Tensor]]:
    """Random features and pos_embed of every level."""
    tokens = random_tokens(settings.image_hw, 1, settings.device)
    return _as_maps(tokens.features, tokens), _as_maps(tokens.pos_embed, tokens)


def _as_maps(flat: Tensor, tokens: TokenGrid) -> list[Tensor]:
    """(B, N, C) as (B, C, h, w) of each level."""
    parts = flat.split([h * w for h, w in tokens.shapes], dim=1)
    return [
        part.transpose(1, 2).unflatten(2, (h, w)).contiguous()
        for part, (h, w) in zip(parts, tokens.shapes, strict=True)
    ]


def compare_outputs(output: Tensor, expected: Tensor, dtype: str) -> dict[str, Any]:
    """Differences of the tokens, (B, N, C), relative to the largest expected value.

    The 99th percentile is checked, not the maximum: rounding may change which tokens are kept.

    Raises:
        ValueError: the 99th percentile is above the tolerance.
    """
    errors = (output.float() - expected.float()).abs().amax(-1).flatten() / expected.abs().max()
    difference = float(errors.sort().values[int(0.99 * (errors.numel() - 1))])
    if not difference <= TOLERANCE[dtype]:
        raise ValueError(
            f"differs by {difference:.1e} of the largest value, allowed {TOLERANCE[dtype]}"
        )
    return {"difference": difference, "largest_difference": float(errors.max())}


def _timed(
    eager: Callable[[], object], compiled: Callable[[], object], settings: Settings
) -> dict[str, Any]:
    """Median time of a call of each, and how much faster the compiled one is."""
    rounds, warmup = settings.rounds
    calls = {"eager": eager, "compiled": compiled}
    *_, (_, timings) = interleaved(calls, rounds, warmup, settings.device)
    return {
        "eager_seconds": timings["eager"].median,
        "seconds": timings["compiled"].median,
        "speed_up": timings["eager"].ratio_to(timings["compiled"]),
    }


def line(result: dict[str, Any]) -> str:
    """One line that sums up a result."""
    compiling = f", compiled in {result['compiling_seconds']:.0f} s" if "backend" in result else ""
    return (
        f"{result['seconds'] * 1e3:.2f} ms, eager {result['eager_seconds'] * 1e3:.2f} ms, differs "
        f"by {result['difference']:.1e}{compiling}"
    )
