"""Encoders on full-size DINO, untrained: forward passes and training steps in one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from torch import nn

import sparse_encoders  # noqa: F401  (registers the package)
from sparse_encoders.analysis.benchmark import Say, benchmark
from sparse_encoders.analysis.inputs import image_call, training_call
from sparse_encoders.analysis.matching import match_dense, to_be_matched
from sparse_encoders.analysis.quiet import quiet
from sparse_encoders.analysis.variants import MATCHED, encoder_config
from sparse_encoders.loading import read_config
from sparse_encoders.tokens import TokenGrid

if TYPE_CHECKING:
    import pandas as pd

STRIDES = (8, 16, 32, 64)
PARTS = ("encoder", "detector")


def detector_with(
    name: str,
    keep_ratio: float,
    backend: str = "auto",
    seed: int = 0,
    layers: int = 6,
    ffn: int = 2048,
    max_boxes: int | None = None,
) -> nn.Module:
    """Full-size DINO (ResNet-50 widths, 6 + 6 layers) with the named encoder, untrained.

    ``layers`` and the FFN's width ``ffn`` are the encoder's; ``max_boxes`` of an image are
    denoised in training (None: all).
    """
    model = _dino()
    model.attention_backend = backend
    model.encoder.num_layers = layers
    model.encoder.layer_cfg.ffn_cfg.feedforward_channels = ffn
    model.encoder = encoder_config(name, model.encoder, keep_ratio)
    model.dn_cfg.max_boxes = max_boxes
    torch.manual_seed(seed)
    with quiet():
        built = MODELS.build(model)
        built.init_weights()
    return built.eval()


def _dino() -> Any:
    """The model's config, with MMDetection's encoder."""
    init_default_scope("mmdet")
    model = read_config("mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py").model
    model.type = "sparse_encoders.DINO"
    model.backbone.init_cfg = None
    return model


def level_shapes(image_hw: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """(h, w) of the four levels of an image of (height, width) pixels."""
    return tuple((-(-image_hw[0] // s), -(-image_hw[1] // s)) for s in STRIDES)


def random_tokens(image_hw: tuple[int, int], batch: int, device: torch.device | str) -> TokenGrid:
    """Tokens of random features at the detector's scale."""
    generator = torch.Generator().manual_seed(0)
    maps = [
        [torch.randn(batch, 256, h, w, generator=generator).to(device) for _ in range(2)]
        for h, w in level_shapes(image_hw)
    ]
    features, positions = zip(*maps, strict=True)
    return TokenGrid.from_maps(features, positions, image_hw=image_hw)


def encoder_call(model: Any, tokens: TokenGrid) -> Callable[[], object]:
    """A call of a detector's encoder alone, without gradients."""
    return torch.no_grad()(lambda: model.encoder(tokens, model.detector_parts()).memory)


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
    progress: Say = lambda message: None,
) -> pd.DataFrame:
    """Time each encoder's forward pass, interleaved, and measure its peak memory.

    Args:
        names: encoders by their short names; shares are of the first. 'dense-matched' is
            matched at ``keep_ratio`` to the first that prunes.
        image_hw: (height, width) in pixels.
        keep_ratio: average keep ratio of those that prune.
        batch: images.
        repeats: timed rounds, after ``warmup`` others.
        warmup: see ``repeats``.
        backends: of attention; with several, each is measured and named 'encoder/backend'.
        part: 'encoder', or 'detector' for the whole forward pass from pixels on.
        device: 'cpu' or a CUDA device.
        progress: called with messages about the progress.

    Returns:
        See :func:`benchmark`; the index is called ``encoder``.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {PARTS}, got {part!r}")
    calls: dict[str, Callable[[], object]] = {}
    for name in names:
        variant = name
        if name == MATCHED:
            model, other = _dino(), to_be_matched(names)
            encoder = encoder_config(other, model.encoder, keep_ratio)
            match = match_dense(model, other, encoder, image_hw)
            progress(str(match))
            variant = match.variant
        for backend in backends:
            label = name if variant == name else f"{name} ({variant})"
            label = label if len(backends) == 1 else f"{label}/{backend}"
            progress(f"building DINO with {label}")
            built = detector_with(variant, keep_ratio, backend).to(device)
            if part == "encoder":
                calls[label] = encoder_call(built, random_tokens(image_hw, batch, device))
            else:
                calls[label] = image_call(built, image_hw, device, batch)
    return benchmark(calls, repeats, warmup, device, say=progress).rename_axis("encoder")


def measure_training(
    names: Sequence[str],
    image_hw: tuple[int, int],
    num_cps: Sequence[int] = (0, 6),
    keep_ratio: float = 0.3,
    batch: int = 1,
    repeats: int = 3,
    device: str = "cpu",
    progress: Say = lambda message: None,
) -> pd.DataFrame:
    """Measure training steps, forward and backward, with and without checkpointed layers.

    Each encoder is measured with each number of checkpointed layers in ``num_cps``, those of one
    encoder in turns. The other arguments are those of :func:`benchmark_encoders`.

    Returns:
        See :func:`benchmark`; the index is called ``encoder``, ``num_cp`` are the checkpointed
        layers, and shares are of the encoder's first line. Memory is beyond weights, their
        gradients and the input.

    Raises:
        ValueError: an unknown encoder, or more checkpointed layers than it has.
    """
    frames = []
    for name in names:
        model: Any = detector_with(name, keep_ratio).to(device).train()
        layers = model.encoder.num_layers
        wrong = [count for count in num_cps if not 0 <= count <= layers]
        if wrong or not num_cps:
            raise ValueError(f"num_cps must be some of 0 to {layers} layers, got {list(num_cps)}")
        run = training_call(model, image_hw, device, batch)
        calls = {f"{name}, {count} checkpointed": _with(model, count, run) for count in num_cps}
        frame = benchmark(calls, repeats, 0, device, say=progress)
        frame.insert(0, "num_cp", list(num_cps))
        frames.append(frame.set_axis([name] * len(frame)))
    import pandas as pd

    return pd.concat(frames).rename_axis("encoder")


def _with(model: Any, num_cp: int, run: Callable[[], object]) -> Callable[[], object]:
    def call() -> object:
        model.encoder.num_cp = num_cp
        return run()

    return call
