"""Settings of a comparison, with the checks that need no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from sparse_encoders.analysis.matching import to_be_matched
from sparse_encoders.analysis.variants import CONTROLS, MATCHED, NAMES, VARIANTS, label, prunes
from sparse_encoders.datasets.shapes import ShapesSettings

#: values of ``data`` that are no folder
SHAPES, OF_CONFIG = "shapes", "config"


@dataclass(frozen=True)
class Variant:
    """One row of a comparison: an encoder's name, and its keep ratio where it prunes."""

    encoder: str
    keep_ratio: float | None = None

    @property
    def label(self) -> str:
        """Such as 'dense' or 'focus 0.3'."""
        return label(self.encoder, self.keep_ratio)


@dataclass(frozen=True)
class Derived:
    """A known encoder with other settings.

    Attributes:
        encoder: one of :data:`~sparse_encoders.analysis.variants.NAMES`.
        options: settings of its config, such as ``{'selector.modulation_place': 'after_norm'}``.
    """

    encoder: str
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """What is compared, on what, and where the report goes.

    Attributes:
        config: a config file, or 'mmdet::...' for one of MMDetection's own.
        out: folder of the report and of everything kept between runs.
        encoders: names of :data:`~sparse_encoders.analysis.variants.NAMES`.
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
        seed: of training, the first one.
        seeds: trainings of each encoder, with seeds counted from ``seed``.
        join: folders with finished runs of other machines or days.
        pictures: validation images to draw kept tokens on.
        margin: differences in AP (0 to 1) below this count as equal.
        baseline: encoder that the others are compared to; None: 'dense', where
            compared, or the first.
        shapes: settings of the shapes set.
        options: further settings of the config, KEY to value.
        command: the command, as shown in the report.
        derived: name to an encoder with other settings, compared after ``encoders``.
        controls: where encoders are trained, compare :data:`CONTROLS`, too.

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
    seeds: int = 1
    join: tuple[Path, ...] = ()
    pictures: int = 2
    margin: float = 0.01
    baseline: str | None = None
    shapes: ShapesSettings = field(default_factory=ShapesSettings)
    options: Mapping[str, object] = field(default_factory=dict)
    command: str = ""
    derived: Mapping[str, Derived] = field(default_factory=dict)
    controls: bool = True

    def __post_init__(self) -> None:
        problem = self._wrong_names() or self._wrong_numbers() or _wrong_device(self.device)
        if self.epochs is not None and self.data is None:
            problem = "--train needs --data: 'shapes', 'config', or a folder in COCO's format"
        if self.epochs is None and (self.seeds > 1 or self.join):
            problem = "--seeds and --join are of trainings: they need --train"
        if problem:
            raise ValueError(problem)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all encoders: the given ones, derived ones, and controls."""
        controls = CONTROLS if self.controls and self.epochs is not None else ()
        return tuple(dict.fromkeys([*self.encoders, *self.derived, *controls]))

    def base_of(self, name: str) -> str:
        """The encoder of a name, or the one that it is derived from."""
        return self.derived[name].encoder if name in self.derived else name

    def _wrong_names(self) -> str | None:
        known, named = [*NAMES, *self.derived], " ".join(self.encoders)
        unknown = sorted(set(self.encoders) - set(known))
        if unknown or not self.encoders:
            got = " ".join(unknown) or "none"
            return f"--encoders must be some of {', '.join(known)}, got {got}"
        if len(set(self.encoders)) < len(self.encoders):
            return f"--encoders names one twice: {named}"
        for name, derived in self.derived.items():
            if name in NAMES or derived.encoder not in VARIANTS:
                return (
                    f"--variant must be NEW=ENCODER, a name of its own and one of "
                    f"{', '.join(VARIANTS)}; got {name}={derived.encoder}"
                )
        if MATCHED in self.names:
            try:
                to_be_matched(self.names)
            except ValueError as error:
                return f"--encoders: {error}"
        stray = sorted(self.checkpoints.keys() - set(self.names))
        if stray:
            return f"--checkpoints names {', '.join(stray)}, not among --encoders {named}"
        if self.baseline is not None and self.baseline not in self.names:
            return f"--baseline must be one of --encoders {named}, got {self.baseline}"
        return None

    def _wrong_numbers(self) -> str | None:
        ratios = [r for r in (*self.keep_ratios, self.train_ratio) if r is not None]
        wrong = " ".join(str(ratio) for ratio in ratios if not 0 < ratio <= 1)
        if wrong or (not self.keep_ratios and any(prunes(self.base_of(n)) for n in self.names)):
            names = "keep ratios (--keep-ratios, --train-ratio)"
            return f"{names} must lie in (0, 1], got {wrong or 'none'}"
        for name, got, low in (
            ("--train", self.epochs, 1),
            ("--repeats", self.repeats, 1),
            ("--warmup", self.warmup, 0),
            ("--pictures", self.pictures, 0),
            ("--seed", self.seed, 0),
            ("--seeds", self.seeds, 1),
            ("--margin", self.margin, 0),
            ("--size", None if self.size is None else min(self.size), 32),
        ):
            if got is not None and got < low:
                return f"{name} must be at least {low}, got {got}"
        return None

    def variants(self) -> list[Variant]:
        """The rows, in the order of the encoders and of falling keep ratio."""
        ratios = sorted(set(self.keep_ratios), reverse=True)
        return [
            Variant(name, ratio)
            for name in self.names
            for ratio in (ratios if prunes(self.base_of(name)) else [None])
        ]

    @property
    def reference(self) -> Variant:
        """The row that the others are compared to: the baseline's, at its largest ratio."""
        fallback = "dense" if "dense" in self.encoders else self.encoders[0]
        return next(v for v in self.variants() if v.encoder == (self.baseline or fallback))


def _wrong_device(device: str) -> str | None:
    try:
        kind = torch.device(device).type
    except RuntimeError:
        return f"--device must be 'cpu' or such as 'cuda:0', got {device!r}"
    if kind != "cpu" and not (kind == "cuda" and torch.cuda.is_available()):
        return f"--device is {device!r}, but torch finds no CUDA device: use cpu"
    return None
