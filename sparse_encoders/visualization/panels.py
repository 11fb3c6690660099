"""Parts of the pictures of tokens; each is drawn into one matplotlib axis."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from itertools import cycle
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from sparse_encoders.visualization.records import FloatArray, ImageArray, TokenRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Brightness of the pixels of dropped tokens.
DROPPED = 0.22
COLOURS = ("#ff595e", "#ffca3a", "#8ac926", "#1982c4", "#b388eb", "#ff924c", "#4cc9f0", "#f15bb5")
# Of a level's object tokens; also for people who cannot distinguish red and green.
LEVEL_COLOURS = ("#00e5ff", "#ffd400", "#ff4fd8", "#7dff5a", "#ff8c42")
NOTE = {"facecolor": "black", "edgecolor": "none", "alpha": 0.6, "pad": 1.2}


def panel_grid(
    rows: int,
    columns: int,
    image: ImageArray,
    title: str = "",
    extra: float = 0.0,
    wide: float = 2.0,
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of rows x columns panels of an image's shape, without ticks and frames.

    The (H, W, 3) image gives the panels their shape; ``wide`` is the width of a panel in inches,
    ``extra`` further height in inches for a legend.
    """
    from matplotlib.figure import Figure

    tall = wide * image.shape[0] / image.shape[1]
    size = (columns * wide * 1.03 + 0.35, rows * tall * 1.04 + 0.45 + extra)
    figure = Figure(figsize=size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.01, hspace=0.01)  # type: ignore[union-attr, call-arg]
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    if title:
        figure.suptitle(title, fontsize=9)
    return figure, [list(row) for row in axes]


def level_names(record: TokenRecord) -> list[str]:
    """Titles of the levels' columns."""
    return [f"level {i + 1} ({h} x {w})" for i, (h, w) in enumerate(record.shapes)]


def level_legend(figure: Figure, record: TokenRecord) -> None:
    """A legend of the levels' colours, below the panels."""
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor="#333333", edgecolor=colour, label=name)
        for colour, name in zip(cycle(LEVEL_COLOURS), level_names(record))
    ]
    where: dict[str, Any] = dict(loc="outside lower center", ncols=len(handles))
    figure.legend(handles=handles, fontsize=8, frameon=False, **where)


def set_titles(axes: Sequence[Axes], titles: Sequence[str]) -> None:
    """Title each axis of a row."""
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=8)


def set_row_label(axis: Axes, text: str) -> None:
    """Label a row at its left."""
    axis.set_ylabel("\n".join(fill(line, 24) for line in text.splitlines()), fontsize=8)


def darken(image: ImageArray, share: FloatArray) -> ImageArray:
    """Image (H, W, 3) at full brightness where ``share`` (H, W) is 1, dark grey where 0."""
    grey = image.mean(2, keepdims=True) * DROPPED
    mixed = grey + share[..., None] * (image - grey)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def show_share(axis: Axes, image: ImageArray, share: FloatArray, note: str = "") -> None:
    """Show the image with brightness ``share`` (H, W), and a note in the lower left corner."""
    axis.imshow(darken(image, share))
    if note:
        style: dict[str, Any] = dict(fontsize=6, color="white", va="bottom", bbox=NOTE)
        axis.text(0.02, 0.03, note, transform=axis.transAxes, **style)


def show_levels(axes: Sequence[Axes], record: TokenRecord, values: FloatArray) -> None:
    """Show (N,) ``values`` as brightness: the mean over levels in the first axis, then each.

    The note of a level is the mean of ``values`` over its valid tokens.
    """
    maps = record.maps(values)
    axes[0].imshow(darken(record.image, maps.mean(0)))
    for level, axis in enumerate(axes[1:]):
        part = record.part(level)
        share = values[part].sum() / max(1, record.valid[part].sum())
        show_share(axis, record.image, maps[level], f"{share:.0%}")


def show_objects(axis: Axes, record: TokenRecord, layer: int) -> None:
    """Outline a layer's object tokens over the darkened image, in their level's colour."""
    from matplotlib.patches import Rectangle

    boxes, levels = record.boxes(record.objects[layer])
    covered = record.maps(record.object_mask(layer)).max(0)
    axis.imshow(darken(record.image, 0.35 + 0.65 * covered))
    # coarse tokens first, so that no outline hides a finer token's
    for index in np.argsort(-levels, kind="stable"):
        x, y, width, height = boxes[index]
        # inside of the token's border: neighbours of another level stay visible
        inset = min(0.8, width / 8, height / 8)
        corner = (x - 0.5 + inset, y - 0.5 + inset)
        style: dict[str, Any] = dict(fill=False, linewidth=0.7)
        style["edgecolor"] = LEVEL_COLOURS[levels[index] % len(LEVEL_COLOURS)]
        axis.add_patch(Rectangle(corner, width - 2 * inset, height - 2 * inset, **style))


def draw_detections(axis: Axes, record: TokenRecord) -> None:
    """Draw the detected boxes with class and score over the image into a matplotlib axis."""
    from matplotlib.patches import Rectangle

    boxes, labels = record.detections.boxes, record.detections.labels
    axis.imshow(record.image)
    for (x1, y1, x2, y2), label, score in zip(boxes, labels, record.detections.scores, strict=True):
        colour = COLOURS[label % len(COLOURS)]
        edges: dict[str, Any] = dict(fill=False, edgecolor=colour, linewidth=1.2)
        axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **edges))
        box = {"facecolor": colour, "edgecolor": "none", "pad": 0.4}
        text = f"{record.classes[label]} {score:.2f}"
        axis.text(x1, y1 - 1, text, fontsize=4.5, va="bottom", clip_on=True, bbox=box)


def save_picture(figure: Figure, path: str | Path, dpi: int = 130) -> Path:
    """Write a figure as JPEG if the name ends so, else as PNG; makes missing folders."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "jpeg" if path.suffix.lower() in (".jpg", ".jpeg") else "png"
    path.write_bytes(picture_bytes(figure, dpi, kind))
    return path


def picture_bytes(figure: Figure, dpi: int = 130, kind: str = "png") -> bytes:
    """A figure as a file: a PNG of 256 colours (a third of the size), or a JPEG of all colours.

    Raises:
        ValueError: ``kind`` is neither 'png' nor 'jpeg'.
    """
    from PIL import Image

    if kind not in ("png", "jpeg"):
        raise ValueError(f"kind must be 'png' or 'jpeg', got {kind!r}")
    picture, file = Image.fromarray(picture_array(figure, dpi)), BytesIO()
    if kind == "jpeg":
        picture.save(file, "JPEG", quality=88, optimize=True)
        return file.getvalue()
    # fixed palette entries, because thin outlines have too few pixels to get one of the 256
    fixed = [int(c[i : i + 2], 16) for c in (*LEVEL_COLOURS, *COLOURS) for i in (1, 3, 5)]
    common = picture.quantize(256 - len(fixed) // 3, dither=Image.Dither.NONE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette(fixed + common)
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()


def picture_array(figure: Figure, dpi: int = 100) -> ImageArray:
    """(H, W, 3) uint8 RGB of a figure, as a visualizer takes it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
