"""A small detection set drawn from a seed, in COCO format.

Five classes; sides log-uniform from 6 pixels to the picture's shorter side, so
that areas span more than two orders of magnitude and every feature level is
used; overlap, textured backgrounds, clutter, pictures without objects, and
landscape, square and portrait pictures. Picture i of a split depends on
(seed, split, i) alone: a larger set starts with the smaller one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sparse_encoders.datasets.drawing import (
    CLASSES,
    Mask,
    Picture,
    Shape,
    background,
    clutter,
    contrasting_colour,
    coverage,
    paint,
)

__all__ = ["CLASSES", "MARKER", "ShapesSettings", "draw_picture", "make_shapes_dataset"]

MARKER = "shapes_dataset.json"
VERSION = 1
SPLITS = ("train", "val")
# (width, height) shares of the size: landscape, square, portrait.
ASPECTS = ((1.0, 0.8), (1.0, 1.0), (0.8, 1.0), (1.0, 0.6))
# One picture in this many has no object.
EMPTY_EVERY = 16
# Largest share of an object that later (smaller) objects may hide.
MAX_HIDDEN = 0.4
IMAGE_NAME = re.compile(r"(train|val)_\d{6}\.png")


@dataclass(frozen=True)
class ShapesSettings:
    """Settings of the data set.

    Attributes:
        train: number of training pictures, at least 1.
        val: number of validation pictures, at least 1.
        size: longer side of a picture in pixels, 64 to 2048.
        min_side: smallest side of an object in pixels, at least 4.
        max_objects: most objects in a picture, at least 1.
        seed: 0 or larger.

    Raises:
        ValueError: a setting is out of its range.
    """

    train: int = 400
    val: int = 100
    size: int = 160
    min_side: float = 6.0
    max_objects: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("train", 1, 10**6),
            ("val", 1, 10**6),
            ("size", 64, 2048),
            ("min_side", 4, self.size // 4),
            ("max_objects", 1, 100),
            ("seed", 0, 2**63 - 1),
        ):
            got = getattr(self, name)
            if not low <= got <= high:
                raise ValueError(f"{name} must be between {low} and {high}, got {got}")


@dataclass(frozen=True)
class DrawnPicture:
    """A picture and its objects.

    Attributes:
        pixels: (H, W, 3) uint8, RGB.
        labels: indices into ``CLASSES``.
        boxes: (x, y, width, height) in pixels, COCO's order, of the whole object
            inside the picture (hidden parts included).
        areas: pixels of each object inside the picture.
    """

    pixels: NDArray[np.uint8]
    labels: tuple[int, ...]
    boxes: tuple[tuple[int, int, int, int], ...]
    areas: tuple[int, ...]


def draw_picture(settings: ShapesSettings, split: str, index: int) -> DrawnPicture:
    """Draw picture ``index`` of a split ('train' or 'val')."""
    rng = np.random.Generator(np.random.PCG64([settings.seed, SPLITS.index(split), index]))
    aspect = ASPECTS[int(rng.choice(len(ASPECTS), p=(0.4, 0.2, 0.2, 0.2)))]
    width, height = (round(settings.size * share) for share in aspect)
    picture = background(rng, height, width)
    clutter(rng, picture, int(rng.integers(0, 7)))
    labels: list[int] = []
    masks: list[Mask] = []
    empty = index % EMPTY_EVERY == EMPTY_EVERY - 1
    count = 0 if empty else int(rng.integers(1, settings.max_objects + 1))
    low, high = np.log(settings.min_side), np.log(0.95 * min(height, width))
    sides = np.sort(np.exp(rng.uniform(low, high, count)))[::-1]
    for side in sides:
        label = int(rng.integers(len(CLASSES)))
        mask = _place(rng, picture, CLASSES[label], float(side), masks)
        if mask is not None:
            labels.append(label)
            masks.append(mask)
    pixels = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    boxes = tuple(_box(mask) for mask in masks)
    return DrawnPicture(pixels, tuple(labels), boxes, tuple(int(m.sum()) for m in masks))


def _place(
    rng: np.random.Generator, picture: Picture, kind: str, side: float, masks: list[Mask]
) -> Mask | None:
    """Paint one object that hides no earlier one too much; returns its mask, or None."""
    height, width = picture.shape[:2]
    for _ in range(8):
        stretch = np.exp(rng.uniform(-0.35, 0.35))
        half = (side * stretch**0.5 / 2, side * stretch**-0.5 / 2)
        margin = 0.4 * side
        x, y = (float(rng.uniform(margin, length - margin)) for length in (width, height))
        shape = Shape(kind, (x, y), half, float(rng.uniform(-0.3, 0.3)))
        shade = float(rng.uniform(-15, 15))
        cover, rows, cols = coverage(shape, height, width)
        mask = np.zeros((height, width), dtype=bool)
        mask[rows, cols] = cover >= 0.5
        if mask.sum() < 6 or any(_hidden(mask, other) for other in masks):
            continue
        colour = contrasting_colour(rng, picture[mask].mean(0))
        paint(picture[rows, cols], cover, colour, shade)
        return mask
    return None


def _hidden(mask: Mask, other: Mask) -> bool:
    return bool((mask & other).sum() > MAX_HIDDEN * other.sum())


def _box(mask: Mask) -> tuple[int, int, int, int]:
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(cols[0]), int(rows[0])
    return x, y, int(cols[-1]) - x + 1, int(rows[-1]) - y + 1


def make_shapes_dataset(
    folder: str | Path,
    settings: ShapesSettings,
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Write the set: ``train.json``, ``val.json`` and ``images/`` below ``folder``.

    Args:
        folder: created if missing. An earlier set of this tool is replaced, or
            kept if it is complete and has the same settings.
        settings: what to draw.
        progress: called as (finished pictures, all pictures).

    Returns:
        True if the set was drawn, False if it existed already.

    Raises:
        ValueError: the folder has files that this tool did not write.
    """
    folder = Path(folder)
    wanted = {"version": VERSION, **asdict(settings)}
    if _claim(folder) == {**wanted, "complete": True}:
        return False
    marker = folder / MARKER
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps({**wanted, "complete": False}, indent=2) + "\n")
    for old in images.iterdir():
        if IMAGE_NAME.fullmatch(old.name):
            old.unlink()
    total, done = settings.train + settings.val, 0
    for split in SPLITS:
        coco: dict[str, Any] = {
            "info": {"description": "shapes, drawn by sparse_encoders", "settings": wanted},
            "images": [],
            "annotations": [],
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
        }
        for index in range(getattr(settings, split)):
            drawn, name = draw_picture(settings, split, index), f"{split}_{index:06d}.png"
            # noise does not compress, so the fastest level gives no larger files
            Image.fromarray(drawn.pixels).save(images / name, compress_level=1)
            _add(coco, name, drawn)
            done += 1
            if progress is not None:
                progress(done, total)
        (folder / f"{split}.json").write_text(json.dumps(coco) + "\n")
    marker.write_text(json.dumps({**wanted, "complete": True}, indent=2) + "\n")
    return True


def _claim(folder: Path) -> dict[str, Any] | None:
    """The settings of an earlier set in ``folder``; None if the folder is new or empty."""
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise ValueError(f"the output must be a folder, got the file {folder}")
    if not any(folder.iterdir()):
        return None
    try:
        settings = json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        settings = None
    if not isinstance(settings, dict) or "complete" not in settings:
        raise ValueError(
            f"{folder} is not empty and has no valid {MARKER}, so it was not written by this "
            "tool and is left as it is: name a new or an empty folder"
        )
    return settings


def _add(coco: dict[str, Any], name: str, drawn: DrawnPicture) -> None:
    height, width = drawn.pixels.shape[:2]
    image_id = len(coco["images"]) + 1
    coco["images"].append({"id": image_id, "file_name": name, "width": width, "height": height})
    for label, box, area in zip(drawn.labels, drawn.boxes, drawn.areas, strict=True):
        coco["annotations"].append(
            {
                "id": len(coco["annotations"]) + 1,
                "image_id": image_id,
                "category_id": label + 1,
                "bbox": list(box),
                "area": area,
                "iscrowd": 0,
            }
        )
