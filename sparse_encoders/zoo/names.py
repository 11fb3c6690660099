"""The grammar of the COCO configs' names, and what a config of a name contains.

A name is ``<detector>_<backbone>_<encoder>_<gpus>xb<images>-<epochs>e_coco``, such as
``dino-4scale_r50_focus-k10_8xb2-36e_coco``: each word is a fragment below
``mmdet_configs/_base_``, and the file joins the fragments and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Detector:
    """A detector of the zoo.

    Attributes:
        title: what it is called in tables.
        folder: of its configs.
        batch: GPUs and images on each, as in names.
        schedules: epochs, and the encoder words that have a config of them with ResNet-50.
    """

    title: str
    folder: str
    batch: str
    schedules: dict[int, tuple[str, ...]]


def with_ratios(word: str) -> tuple[str, ...]:
    """An encoder's words at the keep ratios of Focus-DETR's Table 6; 0.3 has none of its own."""
    return (f"{word}-k10", f"{word}-k20", word, f"{word}-k40", f"{word}-k50")


LITE = ("lite", "lite-3p1x2", "lite-6p1x1", "lite-h2l2")
KEY_AWARE = tuple(word.replace("lite", "lite-key-aware", 1) for word in LITE)
FULL_SET = (
    "dense",
    *with_ratios("sparse"),
    *with_ratios("dual-sparse"),
    *with_ratios("focus"),
    *LITE,
    *KEY_AWARE,
)
"""Encoder words that every detector has at its papers' schedule."""

_SHORT = ("dense", "sparse", "dual-sparse", "focus", "focus-paper", *LITE, KEY_AWARE[0])
_ONE_OF_EACH = ("dense", "sparse", "focus", "lite", "lite-key-aware")
DETECTORS: dict[str, Detector] = {
    "deformable-detr": Detector(
        "Deformable DETR, one-stage, no box refinement",
        "deformable_detr",
        "16xb2",
        {50: ("dense", "sparse", "focus")},
    ),
    "deformable-detr-refine": Detector(
        "Deformable DETR, one-stage",
        "deformable_detr",
        "16xb2",
        {50: (*FULL_SET, "lite-focus")},
    ),
    "deformable-detr-refine-twostage": Detector(
        "Deformable DETR, two-stage",
        "deformable_detr",
        "16xb2",
        {50: (*FULL_SET, "lite-focus")},
    ),
    "sparse-detr": Detector(
        "Sparse DETR's: two-stage, efficient query init",
        "sparse_detr",
        "16xb2",
        {50: FULL_SET},
    ),
    "dn-deformable-detr": Detector(
        "DN-Deformable-DETR",
        "dn_detr",
        "16xb2",
        {50: (*FULL_SET, "lite-focus")},
    ),
    "dino-4scale": Detector(
        "DINO",
        "dino",
        "8xb2",
        {
            12: (*_SHORT, "lite-focus", "salience", "salience-drawn", "hybrid", "none"),
            24: ("dense", "focus", "salience"),
            36: FULL_SET,
        },
    ),
    "h-deformable-detr": Detector(
        "H-Deformable-DETR",
        "h_detr",
        "16xb2",
        {12: _ONE_OF_EACH, 36: FULL_SET, 50: (*_ONE_OF_EACH, "lite-focus")},
    ),
}

BACKBONES = {
    "r50": "ResNet-50",
    "r101": "ResNet-101",
    "swin-t": "Swin-T",
    "swin-b-224-22k": "Swin-B (ImageNet-22K, 224)",
    "swin-b-384-22k": "Swin-B (ImageNet-22K, 384)",
}
# the papers' rows with other backbones than ResNet-50: detector, encoder, backbone, epochs
_OTHER_BACKBONES = (
    *(
        ("dino-4scale", "focus", backbone, epochs)
        for backbone in ("r101", "swin-t")
        for epochs in (12, 24, 36)
    ),
    ("dino-4scale", "focus", "swin-b-224-22k", 36),
    ("dino-4scale", "focus", "swin-b-384-22k", 36),
    ("dino-4scale", "dense", "swin-t", 36),
    *(("dino-4scale", word, "swin-t", 36) for word in KEY_AWARE if "3p1" not in word),
    ("h-deformable-detr", "dense", "swin-t", 36),
    *(("h-deformable-detr", word, "swin-t", 36) for word in KEY_AWARE if "3p1" not in word),
    ("deformable-detr-refine-twostage", "dense", "swin-t", 50),
    ("sparse-detr", "sparse", "swin-t", 50),
)

_NAME = re.compile(
    r"(?P<detector>[^_]+)_(?P<backbone>[^_]+)_(?P<encoder>[^_]+)_"
    r"(?P<batch>\d+xb\d+)-(?P<epochs>\d+)e_coco"
)


@dataclass(frozen=True)
class ZooConfig:
    """One config of the zoo.

    Attributes:
        detector: a key of :data:`DETECTORS`.
        backbone: a key of :data:`BACKBONES`.
        encoder: encoder word, such as 'focus-k10'.
        epochs: length of its schedule.
    """

    detector: str
    backbone: str
    encoder: str
    epochs: int

    @classmethod
    def of_name(cls, name: str) -> ZooConfig:
        """The config of a file's name without its suffix.

        Raises:
            ValueError: not a name of the zoo; says which part is not.
        """
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(
                "config must be named <detector>_<backbone>_<encoder>_<batch>-<epochs>e_coco, "
                f"got {name!r}"
            )
        for part, known in (("detector", DETECTORS), ("backbone", BACKBONES)):
            if match[part] not in known:
                raise ValueError(
                    f"{part} of config {name!r} must be one of {', '.join(known)}, "
                    f"got {match[part]!r}"
                )
        found = cls(match["detector"], match["backbone"], match["encoder"], int(match["epochs"]))
        if found.name != name:
            raise ValueError(f"config {name!r} must be named {found.name!r}")
        return found

    @property
    def name(self) -> str:
        """Of the file, without its suffix."""
        batch = DETECTORS[self.detector].batch
        return f"{self.detector}_{self.backbone}_{self.encoder}_{batch}-{self.epochs}e_coco"

    @property
    def path(self) -> str:
        """Of the file below ``mmdet_configs``."""
        return f"{DETECTORS[self.detector].folder}/{self.name}.py"

    @property
    def bases(self) -> tuple[str, ...]:
        """The fragments below ``mmdet_configs/_base_`` that it joins."""
        bases = (
            f"detectors/{self.detector}_{self.epochs}e.py",
            f"encoders/{self.encoder.replace('-', '_')}.py",
        )
        return bases if self.backbone == "r50" else (*bases, f"backbones/{self.backbone}.py")

    @property
    def text(self) -> str:
        """Of the file."""
        paths = [f'"../_base_/{base}"' for base in self.bases]
        line = f"_base_ = [{', '.join(paths)}]"
        if len(line) > 100:
            line = "\n".join(["_base_ = [", *(f"    {path}," for path in paths), "]"])
        settings = ["encoder=_base_.encoder"]
        if "key-aware" in self.encoder:
            settings.insert(0, 'decoder_attention="key_aware"')
        if self.backbone != "r50":
            settings += ["backbone=_base_.backbone", "neck=_base_.neck"]
        model = f"model = dict({', '.join(settings)})"
        if len(model) > 100:
            model = "\n".join(["model = dict(", *(f"    {setting}," for setting in settings), ")"])
        return f"{line}\n\n{model}\n"


def zoo() -> Iterator[ZooConfig]:
    """Every config of the zoo, in the order of the tables."""
    for detector, facts in DETECTORS.items():
        for epochs, words in facts.schedules.items():
            for word in words:
                yield ZooConfig(detector, "r50", word, epochs)
        for other, word, backbone, epochs in _OTHER_BACKBONES:
            if other == detector:
                yield ZooConfig(detector, backbone, word, epochs)
