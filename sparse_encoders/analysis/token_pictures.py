"""Pictures of what an encoder does with an image's tokens, by layer and by level.

After Figures 1, 4, 6, 9 and 10 of Focus-DETR (Zheng et al., ICCV 2023): kept
tokens show the image, the others are darkened. Drawing needs matplotlib, which
is imported when a picture is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sparse_encoders.analysis.token_panels import (
    darken,
    draw_detections,
    level_legend,
    level_names,
    panel_grid,
    picture_array,
    picture_bytes,
    save_picture,
    set_row_label,
    set_titles,
    show_objects,
    show_share,
    show_tokens,
)
from sparse_encoders.analysis.token_records import (
    Detections,
    TokenRecord,
    record_sample,
    record_tokens,
)
from sparse_encoders.analysis.token_sides import draw_side_by_side, write_side_by_side

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "PICTURES",
    "Detections",
    "TokenRecord",
    "darken",
    "draw_detection_sheet",
    "draw_object_tokens",
    "draw_score_map",
    "draw_side_by_side",
    "draw_tokens",
    "picture_array",
    "picture_bytes",
    "pictures_of",
    "record_sample",
    "record_tokens",
    "save_picture",
    "write_pictures",
    "write_side_by_side",
]


def draw_tokens(record: TokenRecord, panel: float = 2.0) -> Figure:
    """Which tokens each layer refines (Figures 4 and 6): a row for each layer.

    The first column has all levels over each other, the others one each. The
    first row has the detections, then each level's foreground scores where the
    encoder has a selector.

    Args:
        record: what to draw.
        panel: width of one panel in inches.
    """
    levels = range(record.num_levels)
    figure, axes = panel_grid(record.num_layers + 1, record.num_levels + 1, record.image, panel)
    draw_detections(axes[0][0], record.image, record.detections, record.classes)
    set_titles(axes[0], ["detections; all levels", *level_names(record)])
    for level in levels:
        axis = axes[0][level + 1]
        if record.foreground is None:
            axis.imshow(record.image)
            continue
        scores = record.level(record.foreground, level)
        axis.imshow(scores, cmap="magma", vmin=0.0, vmax=max(0.5, float(scores.max())))
    set_row_label(axes[0][0], "no scores" if record.foreground is None else "foreground score")
    for layer, kept in enumerate(record.kept):
        row = axes[layer + 1]
        set_row_label(row[0], f"layer {layer + 1}: {record.share(layer):.0%} kept")
        maps = show_tokens(row[0], record, kept.astype(np.float64))
        for level in levels:
            show_share(
                row[level + 1], record.image, maps[level], f"{record.share(layer, level):.0%}"
            )
    figure.suptitle(record.strategy, fontsize=9)
    return figure


def draw_score_map(record: TokenRecord, panel: float = 3.0) -> Figure:
    """The selector's score of every token over the image, for each level and the best of all.

    Args:
        record: what to draw.
        panel: width of one panel in inches.

    Raises:
        ValueError: the encoder has no selector, so nothing scores its tokens.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    if record.foreground is None:
        raise ValueError(
            f"{record.encoder} has no selector, so its tokens have no scores to draw; "
            "draw_tokens shows which levels each layer refines"
        )
    columns = min(3, record.num_levels + 2)
    rows = -(-(record.num_levels + 2) // columns)
    figure, axes = panel_grid(rows, columns, record.image, panel)
    flat = [axis for row in axes for axis in row]
    draw_detections(flat[0], record.image, record.detections, record.classes)
    maps = [record.level(record.foreground, level) for level in range(record.num_levels)]
    best = np.max(maps, 0)
    top = max(0.5, float(np.nanmax(best)))
    colours = ScalarMappable(Normalize(0.0, top), "inferno")
    for axis, scores in zip(flat[1:], [best, *maps], strict=False):
        axis.imshow(np.repeat(record.image.mean(2, keepdims=True) / 255, 3, 2))
        overlay = colours.to_rgba(scores)
        overlay[..., 3] = 0.45 + 0.4 * np.clip(scores / top, 0, 1)  # the image shows through
        axis.imshow(overlay)
    titles = ["detections", "best of all levels", *level_names(record)]
    set_titles(flat[: len(titles)], titles)
    for axis in flat[len(titles) :]:
        axis.set_visible(False)
    bar = figure.colorbar(colours, ax=flat, fraction=0.03, pad=0.01)
    bar.set_label("score (sigmoid of the selector's logit)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.suptitle(f"Token scores: {record.strategy}", fontsize=9)
    return figure


def draw_object_tokens(record: TokenRecord, panel: float = 2.0) -> Figure:
    """The object tokens that attend to each other (Figure 1 d), a row for each layer.

    In the first column they are outlined in their level's colour; in a level's
    column they have full brightness, kept tokens half, dropped ones none.

    Args:
        record: what to draw.
        panel: width of one panel in inches.

    Raises:
        ValueError: the encoder has no dual attention, so no object tokens.
    """
    if not record.objects:
        raise ValueError(
            f"{record.encoder} ran no dual attention, so there are no object tokens to draw; "
            "they belong to DualAttentionEncoder with dual_attention=True"
        )
    figure, axes = panel_grid(
        record.num_layers, record.num_levels + 1, record.image, panel, extra=0.3
    )
    set_titles(axes[0], ["all levels", *level_names(record)])
    for layer, (row, kept) in enumerate(zip(axes, record.kept, strict=True)):
        mask = record.object_mask(layer)
        set_row_label(row[0], f"layer {layer + 1}: {mask.sum()} objects of {kept.sum()} kept")
        show_objects(row[0], record, layer)
        brightness = np.where(mask, 1.0, 0.35 * kept)
        for level in range(record.num_levels):
            share = record.level(brightness, level).astype(np.float64)
            count = int(mask[record.part(level)].sum())
            show_share(row[level + 1], record.image, share, f"{count} objects")
    level_legend(figure, record)
    figure.suptitle(f"Object tokens: {record.strategy}", fontsize=9)
    return figure


def draw_detection_sheet(records: Sequence[TokenRecord], columns: int = 4) -> Figure:
    """Grid of images with their detections.

    Raises:
        ValueError: no record is given.
    """
    from matplotlib.figure import Figure

    if not records:
        raise ValueError("records must hold at least one image, got none")
    columns = min(columns, len(records))
    rows = -(-len(records) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.3 * rows))
    for place, axis in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axis.axis("off")
        if place < len(records):
            record = records[place]
            draw_detections(axis, record.image, record.detections, record.classes)
    figure.tight_layout(pad=0.3)
    return figure


#: name to drawing, of the pictures of one record
PICTURES: dict[str, Callable[[TokenRecord], Figure]] = {
    "kept": draw_tokens,
    "scores": draw_score_map,
    "objects": draw_object_tokens,
}


def pictures_of(record: TokenRecord) -> tuple[str, ...]:
    """Names in :data:`PICTURES` that this record has something for."""
    has = {"scores": record.foreground is not None, "objects": bool(record.objects)}
    return tuple(name for name in PICTURES if has.get(name, True))


def write_pictures(
    record: TokenRecord, out: str | Path, names: Sequence[str] | None = None
) -> list[Path]:
    """Draw pictures of one record into PNG files.

    Args:
        record: what to draw.
        out: file of the picture of kept tokens; the others get ``_scores`` and
            ``_objects`` before the suffix.
        names: of :data:`PICTURES`; None takes all that the record has something for.

    Raises:
        ValueError: an unknown name, or a picture that this encoder has nothing for.
    """
    out, written = Path(out), []
    for name in pictures_of(record) if names is None else names:
        if name not in PICTURES:
            raise ValueError(f"pictures must be among {tuple(PICTURES)}, got {name!r}")
        path = out if name == "kept" else out.with_name(f"{out.stem}_{name}{out.suffix}")
        written.append(save_picture(PICTURES[name](record), path))
    return written
