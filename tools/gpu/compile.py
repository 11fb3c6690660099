"""Check and time the encoders under ``torch.compile`` and as CUDA graphs."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gpu.detectors import Models
from gpu.settings import Cases, Settings
from sparse_encoders.analysis.benchmark import benchmark
from sparse_encoders.analysis.encoder_benchmark import level_shapes
from sparse_encoders.tokens import TokenGrid

ENCODERS = ("dense", "focus", "lite")
#: allowed difference of the encoder's output, relative to its largest value
TOLERANCE = {"float32": 1e-3, "float16": 3e-2}


def plan(settings: Settings) -> Cases:
    """CUDA graphs, only on a GPU, and ``torch.compile``."""
    models = Models(settings)
    names = ENCODERS[:2] if settings.tiny else ENCODERS
    cases: Cases = {}
    for dtype in TOLERANCE if settings.on_gpu else ():
        for name in names:
            cases[f"CUDA graph, {name}, {dtype}"] = partial(graph, models, name, dtype)
    for name in names:
        cases[f"torch.compile, {name}, float32"] = partial(compiled, models, name)
    return cases


def encoding_of(model: Any, image_hw: tuple[int, int]) -> Callable[..., Tensor]:
    """A detector's encoder with plain tensors as inputs and output, as compilation needs.

    The function takes (B, C, h, w) features and pos_embed of each level and returns (B, N, C)
    memory.
    """

    def encode(maps: list[Tensor], pos_embed: list[Tensor]) -> Tensor:
        tokens = TokenGrid.from_maps(maps, pos_embed, image_hw=image_hw)
        memory: Tensor = model.encoder(tokens, model.detector_parts()).memory
        return memory

    return encode


@torch.no_grad()
def compiled(models: Models, name: str) -> dict[str, Any]:
    """Compile an encoder as one graph; compare its output with eager mode, and time both."""
    settings = models.settings
    encode, inputs = encoding_of(models[name], settings.image_hw), random_inputs(settings)
    expected = encode(*inputs)
    torch._dynamo.reset()
    # on a CPU inductor takes minutes and does not show whether it works on a GPU
    backend = "inductor" if settings.on_gpu else "aot_eager"
    function = torch.compile(encode, fullgraph=True, backend=backend)
    start = time.perf_counter()
    output = function(*inputs)
    settings.synchronize()
    result = {"backend": backend, "compiling_seconds": time.perf_counter() - start}
    result |= compare_outputs(output, expected, "float32")
    return result | _timed(lambda: encode(*inputs), lambda: function(*inputs), settings)


@torch.no_grad()
def graph(models: Models, name: str, dtype: str) -> dict[str, Any]:
    """Capture an encoder as a CUDA graph, replay it on other input, compare and time it."""
    settings = models.settings
    encode, inputs = encoding_of(models[name], settings.image_hw), random_inputs(settings)
    # no cache: autocast frees the cached weights on exit, while the graph still reads them
    with torch.autocast("cuda", getattr(torch, dtype), dtype != "float32", cache_enabled=False):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                encode(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        cuda_graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(cuda_graph):
            output = encode(*inputs)
        for tensors in inputs:
            for tensor in tensors:
                tensor.copy_(tensor.flip(-1) * 0.5)
        expected = encode(*inputs).clone()
        cuda_graph.replay()
        result = compare_outputs(output, expected, dtype)
        return result | _timed(lambda: encode(*inputs), cuda_graph.replay, settings)


def random_inputs(settings: Settings) -> list[list[Tensor]]:
    """Features and pos_embed, (1, 256, h, w) of every level."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(1, 256, h, w) for h, w in level_shapes(settings.image_hw)]
    return [
        [torch.randn(size, generator=generator).to(settings.device) for size in sizes]
        for _ in range(2)
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
    calls = {"compiled": compiled, "eager": eager}
    frame = benchmark(calls, *settings.rounds, settings.device, memory=False)
    return {
        "eager_seconds": frame.seconds["eager"],
        "seconds": frame.seconds["compiled"],
        "speed_up": frame.share_of_first["eager"],
    }


def line(result: dict[str, Any]) -> str:
    """Times of the compiled and of the eager encoder, and how far they differ."""
    compiling = f", compiled in {result['compiling_seconds']:.0f} s" if "backend" in result else ""
    return (
        f"{result['seconds'] * 1e3:.2f} ms, eager {result['eager_seconds'] * 1e3:.2f} ms, differs "
        f"by {result['difference']:.1e}{compiling}"
    )
