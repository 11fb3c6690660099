"""Pictures of the tokens that an encoder refines in an image, by layer and by level.

After Figures 1, 4, 6, 9 and 10 of Focus-DETR (Zheng et al., ICCV 2023): kept
tokens show the image, the others are darkened. Drawing needs matplotlib, which
is imported when a picture is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sparse_encoders.visualization.panels import (
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
    show_levels,
    show_objects,
    show_share,
)
from sparse_encoders.visualization.records import (
    Detections,
    TokenRecord,
    record_sample,
    record_tokens,
)

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
SIDES = ("levels", "layers")


def draw_tokens(record: TokenRecord) -> Figure:
    """Which tokens each layer refines (Figures 4 and 6): a row for each layer.

    The first column has all levels over each other, the others one each. The
    first row has the detections, then each level's foreground scores where the
    encoder has a selector.
    """
    size = (record.num_layers + 1, record.num_levels + 1)
    figure, axes = panel_grid(*size, record.image, record.strategy)
    draw_detections(axes[0][0], record)
    set_titles(axes[0], ["detections; all levels", *level_names(record)])
    set_row_label(axes[0][0], "no scores" if record.foreground is None else "foreground score")
    for level, axis in enumerate(axes[0][1:]):
        if record.foreground is None:
            axis.imshow(record.image)
        else:
            scores = record.level(record.foreground, level)
            axis.imshow(scores, cmap="magma", vmin=0.0, vmax=max(0.5, float(scores.max())))
    for layer, row in enumerate(axes[1:]):
        set_row_label(row[0], f"layer {layer + 1}: {record.share(layer):.0%} kept")
        show_levels(row, record, record.kept[layer].astype(np.float64))
    return figure


def draw_score_map(record: TokenRecord) -> Figure:
    """The selector's score of every token over the image, for each level and the best of all.

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
    titles = ["detections", "best of all levels", *level_names(record)]
    rows, columns = -(-len(titles) // 3), min(3, len(titles))
    title = f"Token scores: {record.strategy}"
    figure, axes = panel_grid(rows, columns, record.image, title, wide=3.0)
    flat = [axis for row in axes for axis in row]
    draw_detections(flat[0], record)
    maps = record.maps(record.foreground)
    best = maps.max(0)
    top = max(0.5, float(np.nanmax(best)))
    colours = ScalarMappable(Normalize(0.0, top), "inferno")
    for axis, scores in zip(flat[1:], [best, *maps], strict=False):
        axis.imshow(np.repeat(record.image.mean(2, keepdims=True) / 255, 3, 2))
        overlay = colours.to_rgba(scores)
        overlay[..., 3] = 0.45 + 0.4 * np.clip(scores / top, 0, 1)  # the image shows through
        axis.imshow(overlay)
    set_titles(flat[: len(titles)], titles)
    for axis in flat[len(titles) :]:
        axis.set_visible(False)
    bar = figure.colorbar(colours, ax=flat, fraction=0.03, pad=0.01)
    bar.set_label("score (sigmoid of the selector's logit)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def draw_object_tokens(record: TokenRecord) -> Figure:
    """The object tokens that attend to each other (Figure 1 d), a row for each layer.

    In the first column they are outlined in their level's colour; in a level's
    column they have full brightness, kept tokens half, dropped ones none.

    Raises:
        ValueError: the encoder has no dual attention, so no object tokens.
    """
    if not record.objects:
        raise ValueError(
            f"{record.encoder} has no dual attention, so there are no object tokens to draw; "
            "only DualAttentionEncoder with dual_attention=True has them"
        )
    size, title = (record.num_layers, record.num_levels + 1), f"Object tokens: {record.strategy}"
    figure, axes = panel_grid(*size, record.image, title, extra=0.3)
    set_titles(axes[0], ["all levels", *level_names(record)])
    for layer, (row, kept) in enumerate(zip(axes, record.kept, strict=True)):
        mask = record.object_mask(layer)
        set_row_label(row[0], f"layer {layer + 1}: {mask.sum()} objects of {kept.sum()} kept")
        show_objects(row[0], record, layer)
        for level, share in enumerate(record.maps(np.where(mask, 1.0, 0.35 * kept))):
            note = f"{mask[record.part(level)].sum()} objects"
            show_share(row[level + 1], record.image, share, note)
    level_legend(figure, record)
    return figure


def draw_detection_sheet(records: Sequence[TokenRecord]) -> Figure:
    """Grid of images with their detections, four in a row.

    Raises:
        ValueError: no record is given.
    """
    from matplotlib.figure import Figure

    if not records:
        raise ValueError("records must hold at least one image, got none")
    columns = min(4, len(records))
    rows = -(-len(records) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.3 * rows))
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.axis("off")
    for axis, record in zip(axes, records, strict=False):
        draw_detections(axis, record)
    figure.tight_layout(pad=0.3)
    return figure


def draw_side_by_side(records: Mapping[str, TokenRecord], by: str = "levels") -> Figure:
    """Strategies under each other on the same image (Figures 1, 9 and 10), a row for each.

    After the detections come, with ``by='levels'``, all levels and each level
    (brightness is the share of the encoder's layers that refine a token), or,
    with ``by='layers'``, all levels of each layer; then the last layer's object
    tokens, where any of the encoders has some.

    Args:
        records: name to record, drawn in this order.
        by: 'levels' or 'layers'.

    Raises:
        ValueError: no record, records of different images or levels, an unknown
            ``by``.
    """
    if by not in SIDES:
        raise ValueError(f"by must be one of {SIDES}, got {by!r}")
    first = _same_image(records)
    titles = ["all levels", *level_names(first)]
    if by == "layers":
        titles = [f"layer {i + 1}" for i in range(max(r.num_layers for r in records.values()))]
    with_objects = any(record.objects for record in records.values())
    last = ["object tokens, last layer"] if with_objects else []
    titles, extra = ["detections", *titles, *last], 0.35 if with_objects else 0.0
    figure, axes = panel_grid(len(records), len(titles), first.image, extra=extra)
    set_titles(axes[0], titles)
    for (name, record), row in zip(records.items(), axes, strict=True):
        set_row_label(row[0], f"{name}\n{record.share():.0%} of the work")
        draw_detections(row[0], record)
        inner = row[1 : len(row) - len(last)]
        if by == "levels":
            show_levels(inner, record, record.kept.mean(0))
        else:
            for layer, axis in enumerate(inner):
                if layer < record.num_layers:
                    maps = record.maps(record.kept[layer])
                    show_share(axis, record.image, maps.mean(0), f"{record.share(layer):.0%}")
                else:
                    axis.set_visible(False)
        if record.objects:
            show_objects(row[-1], record, record.num_layers - 1)
        elif with_objects:
            white = np.full_like(record.image, 255)
            show_share(row[-1], white, np.ones(white.shape[:2]), "none")
    if with_objects:
        level_legend(figure, first)
    return figure


def _same_image(records: Mapping[str, TokenRecord]) -> TokenRecord:
    """The first record, of whose image and levels all others must be."""
    if not records:
        raise ValueError("records must hold at least one strategy, got none")
    first = next(iter(records.values()))
    wanted = (first.image.shape[:2], first.shapes)
    for name, record in records.items():
        got = (record.image.shape[:2], record.shapes)
        if got != wanted:
            raise ValueError(
                f"records must be of the same image and levels: {name!r} has an image of {got[0]} "
                f"and levels {got[1]}, the first {wanted[0]} and {wanted[1]}"
            )
    return first


#: name to drawing, of the pictures of one record
PICTURES: dict[str, Callable[[TokenRecord], Figure]] = {
    "kept": draw_tokens,
    "scores": draw_score_map,
    "objects": draw_object_tokens,
}


def pictures_of(record: TokenRecord) -> tuple[str, ...]:
    """Names in :data:`PICTURES` that can be drawn from this record."""
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
        names: of :data:`PICTURES`; None: all that can be drawn from the record.

    Raises:
        ValueError: an unknown name, or a picture that cannot be drawn for this encoder.
    """
    out, written = Path(out), []
    for name in pictures_of(record) if names is None else names:
        if name not in PICTURES:
            raise ValueError(f"pictures must be among {tuple(PICTURES)}, got {name!r}")
        path = out if name == "kept" else out.with_name(f"{out.stem}_{name}{out.suffix}")
        written.append(save_picture(PICTURES[name](record), path))
    return written


def write_side_by_side(records: Mapping[str, TokenRecord], out: str | Path) -> list[Path]:
    """Both pictures of :func:`draw_side_by_side`, in files ``*_levels`` and ``*_layers``."""
    out = Path(out)
    names = {by: out.with_name(f"{out.stem}_{by}{out.suffix}") for by in SIDES}
    return [save_picture(draw_side_by_side(records, by), path) for by, path in names.items()]
