"""Encoders under ``torch.compile`` and as CUDA graphs: their shapes are known beforehand."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparse_encoders.analysis.encoder_benchmark import random_tokens
from sparse_encoders.analysis.gpu_check.detectors import Models
from sparse_encoders.analysis.gpu_check.settings import Settings
from sparse_encoders.analysis.latency import interleaved
from sparse_encoders.tokens import TokenGrid

ENCODERS = ("dense", "focus", "lite")
CLOSE = {"float32": 1e-3, "float16": 3e-2}  # of the largest number of the memory


def plan(settings: Settings) -> dict[str, Callable[[], dict[str, Any]]]:
    """``torch.compile`` everywhere, CUDA graphs on a GPU."""
    models = Models(settings)
    names = ENCODERS[:2] if settings.tiny else ENCODERS
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    if settings.on_gpu:
        for dtype in CLOSE:
            for name in names:
                found[f"CUDA graph, {name}, {dtype}"] = partial(graph, models, name, dtype)
    for name in names:
        found[f"torch.compile, {name}, float32"] = partial(compiled, models, name)
    return found


class Encoding(nn.Module):
    """An encoder as a function of plain tensors.

    Args:
        model: a detector of this package.
        image_hw: (height, width) in pixels.
    """

    def __init__(self, model: Any, image_hw: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.image_hw = model, image_hw

    def forward(self, maps: list[Tensor], pos_embed: list[Tensor]) -> Tensor:
        """Per level (B, C, h, w) features and positions to (B, N, C) memory."""
        tokens = TokenGrid.from_maps(maps, pos_embed, image_hw=self.image_hw)
        memory: Tensor = self.model.encoder(tokens, self.model.detector_parts()).memory
        return memory


@torch.no_grad()
def compiled(models: Models, name: str) -> dict[str, Any]:
    """One graph by ``torch.compile``: the same numbers, how long it takes to make, how fast."""
    settings = models.settings
    encoding = Encoding(models[name], settings.image_hw)
    inputs = _inputs(settings)
    wanted = encoding(*inputs)
    torch._dynamo.reset()
    # a CPU's own code takes minutes to compile, and says nothing of a GPU's
    backend = "inductor" if settings.on_gpu else "aot_eager"
    function = torch.compile(encoding, fullgraph=True, backend=backend)
    start = time.perf_counter()
    found = function(*inputs)
    settings.synchronize()
    seconds = time.perf_counter() - start
    result = {"backend": backend, "compiling_seconds": seconds}
    result |= _compared(found, wanted, "float32")
    return result | _timed(lambda: encoding(*inputs), lambda: function(*inputs), settings)


@torch.no_grad()
def graph(models: Models, name: str, dtype: str) -> dict[str, Any]:
    """The encoder recorded as a CUDA graph: the same numbers on other input, and how fast."""
    settings = models.settings
    encoding = Encoding(models[name], settings.image_hw)
    inputs = _inputs(settings)
    # autocast's store of cast weights would not live as long as the graph
    with torch.autocast("cuda", getattr(torch, dtype), dtype != "float32", cache_enabled=False):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                encoding(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded):
            output = encoding(*inputs)
        for kind in inputs:
            for tensor in kind:
                tensor.copy_(tensor.flip(-1) * 0.5)
        wanted = encoding(*inputs).clone()
        recorded.replay()
        result = _compared(output, wanted, dtype)
        return result | _timed(lambda: encoding(*inputs), recorded.replay, settings)


def _inputs(settings: Settings) -> tuple[list[Tensor], list[Tensor]]:
    """Random features and positions of every level."""
    tokens = random_tokens(settings.image_hw, 1, settings.device)
    return _as_maps(tokens.features, tokens), _as_maps(tokens.pos_embed, tokens)


def _as_maps(flat: Tensor, tokens: TokenGrid) -> list[Tensor]:
    """(B, N, C) as (B, C, h, w) of each level."""
    parts = flat.split([h * w for h, w in tokens.shapes], dim=1)
    return [
        part.transpose(1, 2).unflatten(2, (h, w)).contiguous()
        for part, (h, w) in zip(parts, tokens.shapes, strict=True)
    ]


def _compared(found: Tensor, wanted: Tensor, dtype: str) -> dict[str, Any]:
    """By how much 99 of 100 tokens differ, of the largest number; rounding may rank another token.

    Raises:
        ValueError: by too much.
    """
    off = (found.float() - wanted.float()).abs().amax(-1).flatten() / wanted.abs().max()
    difference = float(off.sort().values[int(0.99 * (off.numel() - 1))])
    if not difference <= CLOSE[dtype]:
        raise ValueError(f"differs by {difference:.1e} of the largest, allowed {CLOSE[dtype]}")
    return {"difference": difference, "largest_difference": float(off.max())}


def _timed(
    eager: Callable[[], object], other: Callable[[], object], settings: Settings
) -> dict[str, Any]:
    rounds, warmup = settings.rounds
    calls = {"eager": eager, "other": other}
    *_, (_, timings) = interleaved(calls, rounds, warmup, settings.device)
    return {
        "eager_seconds": timings["eager"].median,
        "seconds": timings["other"].median,
        "speed_up": timings["eager"].ratio_to(timings["other"]),
    }


def line(result: dict[str, Any]) -> str:
    """A result in words."""
    made = f", compiled in {result['compiling_seconds']:.0f} s" if "backend" in result else ""
    return (
        f"{result['seconds'] * 1e3:.2f} ms, eager {result['eager_seconds'] * 1e3:.2f} ms, differs "
        f"by {result['difference']:.1e}{made}"
    )
