"""Several strategies on the same image, under each other.

After Figures 1, 9 and 10 of Focus-DETR (Zheng et al., ICCV 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sparse_encoders.analysis.token_panels import (
    draw_detections,
    level_legend,
    level_names,
    panel_grid,
    save_picture,
    set_row_label,
    set_titles,
    show_objects,
    show_share,
    show_tokens,
)
from sparse_encoders.analysis.token_records import TokenRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDES = ("levels", "layers")


def draw_side_by_side(
    records: Mapping[str, TokenRecord], by: str = "levels", panel: float = 2.0
) -> Figure:
    """Strategies under each other on the same image (Figures 1, 9 and 10), a row for each.

    After the detections come, with ``by='levels'``, all levels and each level
    (brightness is the share of the encoder's layers that refine a token), or,
    with ``by='layers'``, all levels of each layer; then the last layer's object
    tokens, where any of the encoders has some.

    Args:
        records: name to record, drawn in this order.
        by: 'levels' or 'layers'.
        panel: width of one panel in inches.

    Raises:
        ValueError: no record, records of different images or levels, an unknown
            ``by``.
    """
    if by not in SIDES:
        raise ValueError(f"by must be one of {SIDES}, got {by!r}")
    if not records:
        raise ValueError("records must hold at least one strategy, got none")
    first = next(iter(records.values()))
    for name, record in records.items():
        if record.image.shape != first.image.shape or record.shapes != first.shapes:
            raise ValueError(
                f"records must be of the same image and levels: {name!r} has an image of "
                f"{record.image.shape[:2]} and levels {record.shapes}, the first "
                f"{first.image.shape[:2]} and {first.shapes}"
            )
    if by == "levels":
        titles = ["all levels", *level_names(first)]
    else:
        layers = max(record.num_layers for record in records.values())
        titles = [f"layer {layer + 1}" for layer in range(layers)]
    with_objects = any(record.objects for record in records.values())
    titles = ["detections", *titles, *(["object tokens, last layer"] if with_objects else [])]
    extra = 0.35 if with_objects else 0.0
    figure, axes = panel_grid(len(records), len(titles), first.image, panel, extra)
    set_titles(axes[0], titles)
    for (name, record), row in zip(records.items(), axes, strict=True):
        set_row_label(row[0], f"{name}\n{record.share():.0%} of the work")
        draw_detections(row[0], record.image, record.detections, record.classes)
        inner = row[1:-1] if with_objects else row[1:]
        _fill_levels(inner, record) if by == "levels" else _fill_layers(inner, record)
        if with_objects and record.objects:
            show_objects(row[-1], record, record.num_layers - 1)
        elif with_objects:
            _say(row[-1], record, "none")
    if with_objects:
        level_legend(figure, first)
    return figure


def _fill_levels(row: Sequence[Axes], record: TokenRecord) -> None:
    """All levels and each level, averaged over the layers."""
    maps = show_tokens(row[0], record, record.kept.mean(0))
    for level, axis in enumerate(row[1:]):
        show_share(axis, record.image, maps[level], f"{record.share(level=level):.0%}")


def _fill_layers(row: Sequence[Axes], record: TokenRecord) -> None:
    """All levels of each layer."""
    for layer, axis in enumerate(row):
        if layer >= record.num_layers:
            axis.set_visible(False)
            continue
        kept = record.kept[layer].astype(np.float64)
        maps = [record.level(kept, level) for level in range(record.num_levels)]
        show_share(axis, record.image, np.mean(maps, 0), f"{record.share(layer):.0%}")


def _say(axis: Axes, record: TokenRecord, text: str) -> None:
    """A panel of words, as large as the others."""
    axis.imshow(np.full_like(record.image, 255))
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", fontsize=8)


def write_side_by_side(records: Mapping[str, TokenRecord], out: str | Path) -> list[Path]:
    """Both pictures of :func:`draw_side_by_side`, ``_levels`` and ``_layers`` put into the name."""
    out = Path(out)
    return [
        save_picture(draw_side_by_side(records, by), out.with_name(f"{out.stem}_{by}{out.suffix}"))
        for by in SIDES
    ]
