"""Pictures of what each strategy kept, on the same images."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparse_encoders.analysis.compare.plan import Data
from sparse_encoders.analysis.compare.settings import Variant
from sparse_encoders.analysis.token_pictures import (
    draw_side_by_side,
    picture_bytes,
    record_tokens,
)

#: dots per inch: enough to see a token, small enough to travel in the page
DPI = 110


def draw_strategies(
    models: Mapping[str, tuple[Any, float | None]], data: Data, count: int
) -> dict[str, bytes]:
    """Kept tokens of every strategy under each other, one picture an image.

    Args:
        models: encoder name to (trained detector, keep ratio).
        data: whose validation images are drawn.
        count: images, chosen with a fixed seed among those with objects.

    Returns:
        Title to JPEG file.
    """
    drawn = {}
    for image in choose_images(data, count):
        records = {}
        for name, (model, ratio) in models.items():
            if ratio is not None:
                model.set_keep_ratio(ratio)
            if not getattr(model.encoder, "needs_boxes", False):  # an image file has none
                records[Variant(name, ratio).label] = record_tokens(model, image)
        if records:
            drawn[image.name] = picture_bytes(draw_side_by_side(records), DPI, "jpeg")
    return drawn


def choose_images(data: Data, count: int) -> list[Path]:
    """Validation images with objects, drawn with a fixed seed."""
    content = json.loads(data.annotations.read_text())
    full = {a["image_id"] for a in content["annotations"]}
    names = [i["file_name"] for i in content["images"] if i["id"] in full]
    return [data.images / name for name in random.Random(0).sample(names, min(count, len(names)))]
