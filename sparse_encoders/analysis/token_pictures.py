"""Pictures of the tokens that an encoder keeps, by layer and by level.

After Figures 4 and 6 of Focus-DETR (Zheng et al., ICCV 2023): kept tokens show
the image, the others are darkened. Drawing needs matplotlib, which is imported
when a picture is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from sparse_encoders.encoders.base import EncoderOutput

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

# Brightness that a dropped token's pixels are left with.
DROPPED = 0.22
COLOURS = ("#ff595e", "#ffca3a", "#8ac926", "#1982c4", "#b388eb", "#ff924c", "#4cc9f0", "#f15bb5")


@dataclass(frozen=True)
class Detections:
    """Boxes on one image.

    Attributes:
        boxes: (n, 4) as (x1, y1, x2, y2) in pixels of the picture.
        labels: (n,) class indices.
        scores: (n,) in [0, 1].
    """

    boxes: FloatArray
    labels: NDArray[np.int64]
    scores: FloatArray


@dataclass(frozen=True)
class TokenRecord:
    """What a detector kept and found in one image.

    Attributes:
        image: (H, W, 3) uint8 RGB, resized as the detector saw it, not padded.
        batch_hw: (height, width) of the detector's input, padding included.
        shapes: (height, width) of each level, finest first.
        kept: (layers, N) bool, True where an encoder layer kept a token.
        foreground: (N,) foreground scores in [0, 1].
        detections: what the detector found.
        classes: class names.
    """

    image: NDArray[np.uint8]
    batch_hw: tuple[int, int]
    shapes: tuple[tuple[int, int], ...]
    kept: BoolArray
    foreground: FloatArray
    detections: Detections
    classes: tuple[str, ...]

    def level(self, values: NDArray[Any], level: int) -> NDArray[Any]:
        """(H, W) values of one level's tokens, from (N,), each token spread over its pixels."""
        start = sum(h * w for h, w in self.shapes[:level])
        h, w = self.shapes[level]
        grid = values[start : start + h * w].reshape(h, w)
        rows = np.arange(self.image.shape[0]) * h // self.batch_hw[0]
        cols = np.arange(self.image.shape[1]) * w // self.batch_hw[1]
        return grid[rows][:, cols]


def record_tokens(model: nn.Module, image: str | Path, min_score: float = 0.3) -> TokenRecord:
    """Run a detector on one image and record what its encoder kept.

    Args:
        model: a detector of this package as ``mmdet.apis.init_detector`` gives it.
        image: path of the image.
        min_score: leave out detections below this score.

    Raises:
        ValueError: the image cannot be read, or the model's encoder keeps every token.
    """
    import mmcv
    from mmdet.apis import inference_detector

    outputs: list[EncoderOutput] = []
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise ValueError(f"{type(model).__name__} has no encoder to look into")
    pixels = mmcv.imread(str(image), channel_order="rgb") if Path(image).is_file() else None
    if pixels is None:
        raise ValueError(f"{image} is no image that can be read")
    handle = encoder.register_forward_hook(lambda *call: outputs.append(call[2]))
    try:
        result = inference_detector(model, str(image))
    finally:
        handle.remove()
    output = outputs[-1]
    if not isinstance(output, EncoderOutput) or output.selection is None:
        raise ValueError(
            f"{type(encoder).__name__} keeps every token: there is no selection to draw"
        )
    height, width = (int(s) for s in result.img_shape[:2])
    tokens, selection = output.tokens, output.selection
    kept = [layer.mask(tokens.num_tokens)[0].cpu().numpy() for layer in selection.layers]
    return TokenRecord(
        image=mmcv.imresize(pixels, (width, height)),
        batch_hw=tokens.image_hw or (height, width),
        shapes=tokens.shapes,
        kept=np.stack(kept),
        foreground=selection.logits[0].detach().float().sigmoid().cpu().numpy().astype(np.float64),
        detections=_detections(result, (height, width), min_score),
        classes=tuple(_class_names(model)),
    )


def _class_names(model: Any) -> Sequence[str]:
    return model.dataset_meta["classes"]


def _detections(result: Any, hw: tuple[int, int], min_score: float) -> Detections:
    """Detections of a data sample, scaled from the original image to ``hw``."""
    found = result.pred_instances.cpu().numpy()
    strong = found.scores >= min_score
    ratio = np.array([hw[1] / result.ori_shape[1], hw[0] / result.ori_shape[0]])
    return Detections(
        boxes=found.bboxes[strong].astype(np.float64) * np.tile(ratio, 2),
        labels=found.labels[strong].astype(np.int64),
        scores=found.scores[strong].astype(np.float64),
    )


def darken(image: NDArray[np.uint8], share: FloatArray) -> NDArray[np.uint8]:
    """Image (H, W, 3) at full brightness where ``share`` (H, W) is 1, dark grey where 0."""
    grey = image.mean(2, keepdims=True) * DROPPED
    mixed = grey + share[..., None] * (image - grey)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def draw_tokens(record: TokenRecord, panel: float = 2.0) -> Figure:
    """Grid of panels: a column for all levels and one for each, a row for each layer.

    The first row has the detections, then each level's foreground scores.

    Args:
        record: what to draw.
        panel: width of one panel in inches.
    """
    from matplotlib.figure import Figure

    layers, levels = record.kept.shape[0], len(record.shapes)
    tall = panel * record.image.shape[0] / record.image.shape[1]
    figure = Figure(figsize=((levels + 1) * panel * 1.03 + 0.3, (layers + 1) * tall * 1.04 + 0.35))
    axes = figure.subplots(layers + 1, levels + 1, squeeze=False)
    draw_detections(axes[0][0], record.image, record.detections, record.classes)
    names = [f"level {i + 1} ({h} x {w})" for i, (h, w) in enumerate(record.shapes)]
    for column, name in enumerate(["detections; all levels", *names]):
        axes[0][column].set_title(name, fontsize=8)
    axes[0][0].set_ylabel("foreground score", fontsize=8)
    for level in range(levels):
        scores = record.level(record.foreground, level)
        axes[0][level + 1].imshow(scores, cmap="magma", vmin=0.0, vmax=max(0.5, scores.max()))
    for layer, kept in enumerate(record.kept):
        row = axes[layer + 1]
        row[0].set_ylabel(f"layer {layer + 1}: {kept.mean():.0%} kept", fontsize=8)
        maps = [record.level(kept, level) for level in range(levels)]
        for axis, share in zip(row, [np.mean(maps, 0), *maps], strict=True):
            axis.imshow(darken(record.image, share.astype(np.float64)))
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_visible(False)
    figure.tight_layout(pad=0.3, h_pad=0.35, w_pad=0.35)
    return figure


def draw_detections(
    axis: Axes, image: NDArray[np.uint8], found: Detections, classes: Sequence[str]
) -> None:
    """Draw boxes with class and score over an image (H, W, 3) into a matplotlib axis."""
    from matplotlib.patches import Rectangle

    axis.imshow(image)
    for (x1, y1, x2, y2), label, score in zip(found.boxes, found.labels, found.scores, strict=True):
        colour = COLOURS[label % len(COLOURS)]
        axis.add_patch(
            Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.2)
        )
        axis.text(
            x1,
            y1 - 1,
            f"{classes[label]} {score:.2f}",
            fontsize=4.5,
            color="black",
            va="bottom",
            clip_on=True,
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.4},
        )


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


def save_picture(figure: Figure, path: str | Path, dpi: int = 130) -> Path:
    """Write a figure as PNG; folders are made where missing."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=dpi)
    return path
