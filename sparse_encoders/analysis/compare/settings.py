"""What is compared, and the checks that need no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from sparse_encoders.analysis.variants import VARIANTS, prunes
from sparse_encoders.datasets.shapes import ShapesSettings

#: values of ``data`` that are no folder
SHAPES, OF_CONFIG = "shapes", "config"


@dataclass(frozen=True)
class Variant:
    """One row of a comparison.

    Attributes:
        encoder: a name of :data:`~sparse_encoders.analysis.variants.VARIANTS`.
        keep_ratio: average share of tokens kept; None for encoders without a selector.
    """

    encoder: str
    keep_ratio: float | None = None

    @property
    def label(self) -> str:
        """Such as 'dense' or 'focus 0.3'."""
        return self.encoder if self.keep_ratio is None else f"{self.encoder} {self.keep_ratio:g}"


@dataclass(frozen=True)
class Comparison:
    """What is compared, on what, and where the report goes.

    Attributes:
        config: a config file, or 'mmdet::...' for one of MMDetection's own.
        out: folder of the report and of everything kept between runs.
        encoders: names of :data:`~sparse_encoders.analysis.variants.VARIANTS`.
        keep_ratios: average keep ratios of the encoders that prune, each in (0, 1].
        checkpoints: encoder name to trained weights of the detector with it.
        data: 'shapes' (drawn below ``out``), 'config' (what the config names), a
            folder in COCO's format (train.json, val.json, images), or None: speed
            and size only.
        epochs: train encoders that have no checkpoint so long; None: no training.
        train_ratio: keep ratio in training; None: the config's, or 0.3.
        size: (height, width) in pixels of the image that speed and size are
            measured on; None: the config's scale.
        device: 'cpu' or a CUDA device.
        repeats: timed rounds; None: as many as a minute has, 5 to 30.
        warmup: rounds before them.
        seed: of training and of untrained weights.
        pictures: validation images to draw kept tokens on.
        noise: differences in AP (0 to 1) up to this are called equal, at least.
        baseline: encoder that the others are compared to; None: 'dense', where
            compared, or the first.
        shapes: settings of the shapes set.
        options: further settings of the config, KEY to value.
        command: what the report says it was made by.

    Raises:
        ValueError: an unknown name, a number out of its range, settings that do
            not go together.
    """

    config: str
    out: Path
    encoders: tuple[str, ...] = ("dense", "sparse", "focus", "lite", "lite-focus")
    keep_ratios: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5)
    checkpoints: Mapping[str, Path] = field(default_factory=dict)
    data: str | None = None
    epochs: int | None = None
    train_ratio: float | None = None
    size: tuple[int, int] | None = None
    device: str = "cpu"
    repeats: int | None = None
    warmup: int = 1
    seed: int = 0
    pictures: int = 2
    noise: float = 0.005
    baseline: str | None = None
    shapes: ShapesSettings = field(default_factory=ShapesSettings)
    options: Mapping[str, object] = field(default_factory=dict)
    command: str = ""

    def __post_init__(self) -> None:
        self._check_names()
        self._check_numbers()
        if self.epochs is not None and self.data is None:
            raise ValueError(
                "--train needs --data: 'shapes', 'config', or a folder in COCO's format"
            )
        if self.device != "cpu":
            _check_device(self.device)

    def _check_names(self) -> None:
        unknown = sorted(set(self.encoders) - VARIANTS.keys())
        if unknown or not self.encoders:
            raise ValueError(
                f"--encoders must be some of {', '.join(VARIANTS)}, got "
                f"{' '.join(unknown) or 'none'}"
            )
        if len(set(self.encoders)) < len(self.encoders):
            raise ValueError(f"--encoders names one twice: {' '.join(self.encoders)}")
        stray = sorted(self.checkpoints.keys() - set(self.encoders))
        if stray:
            raise ValueError(
                f"--checkpoints names {', '.join(stray)}, not among --encoders "
                f"{' '.join(self.encoders)}"
            )
        if self.baseline is not None and self.baseline not in self.encoders:
            raise ValueError(
                f"--baseline must be one of --encoders {' '.join(self.encoders)}, "
                f"got {self.baseline}"
            )

    def _check_numbers(self) -> None:
        ratios = [*self.keep_ratios, *([] if self.train_ratio is None else [self.train_ratio])]
        wrong = [r for r in ratios if not 0 < r <= 1]
        if wrong or (not self.keep_ratios and any(map(prunes, self.encoders))):
            raise ValueError(
                "keep ratios (--keep-ratios, --train-ratio) must lie in (0, 1], got "
                f"{' '.join(map(str, wrong)) or 'none'}"
            )
        for name, got, low in (
            ("--train", self.epochs, 1),
            ("--repeats", self.repeats, 1),
            ("--warmup", self.warmup, 0),
            ("--pictures", self.pictures, 0),
            ("--seed", self.seed, 0),
            ("--ap-noise", self.noise, 0),
            ("--size", None if self.size is None else min(self.size), 32),
        ):
            if got is not None and got < low:
                raise ValueError(f"{name} must be at least {low}, got {got}")

    def variants(self) -> list[Variant]:
        """The rows, in the order of the encoders and of falling keep ratio."""
        found = []
        for name in self.encoders:
            ratios = sorted(set(self.keep_ratios), reverse=True) if prunes(name) else [None]
            found += [Variant(name, ratio) for ratio in ratios]
        return found

    @property
    def reference(self) -> Variant:
        """The row that the others are compared to: the baseline's, at its largest ratio."""
        fallback = "dense" if "dense" in self.encoders else self.encoders[0]
        name = self.baseline or fallback
        return next(v for v in self.variants() if v.encoder == name)


def _check_device(device: str) -> None:
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ValueError(f"--device must be 'cpu' or such as 'cuda:0', got {device!r}") from error
    if kind != "cuda" or not torch.cuda.is_available():
        raise ValueError(f"--device is {device!r}, but torch finds no CUDA device: use cpu")
