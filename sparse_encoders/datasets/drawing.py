"""Drawing of one shapes picture with NumPy alone.

Nothing here depends on the version of a drawing library: a shape is an implicit
function evaluated on a fine pixel grid, so the same seed gives the same picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Picture = NDArray[np.float64]

CLASSES = ("circle", "square", "triangle", "ring", "cross")
# Samples per pixel side when a shape's outline is smoothed.
SUBPIXELS = 3


@dataclass(frozen=True)
class Shape:
    """Outline of one shape.

    Attributes:
        kind: one of ``CLASSES``.
        centre: (x, y) in pixels.
        half_size: (half width, half height) in pixels, before rotation.
        angle: rotation in radians.
    """

    kind: str
    centre: tuple[float, float]
    half_size: tuple[float, float]
    angle: float


def inside(kind: str, u: Picture, v: Picture) -> Mask:
    """Where points (u, v) of the shape's own square [-1, 1]^2 lie inside the shape.

    Raises:
        ValueError: ``kind`` is not one of ``CLASSES``.
    """
    if kind == "circle":
        return u * u + v * v <= 1
    if kind == "square":
        return (np.abs(u) <= 0.9) & (np.abs(v) <= 0.9)
    if kind == "triangle":
        return (v <= 0.9) & (v >= 2 * np.abs(u) - 1)
    if kind == "ring":
        radius = u * u + v * v
        return (radius <= 1) & (radius >= 0.3)
    if kind == "cross":
        bar = 0.32
        return ((np.abs(u) <= bar) & (np.abs(v) <= 1)) | ((np.abs(v) <= bar) & (np.abs(u) <= 1))
    raise ValueError(f"kind must be one of {CLASSES}, got {kind!r}")


def coverage(shape: Shape, height: int, width: int) -> tuple[Picture, slice, slice]:
    """Share of every pixel that a shape covers, on the part of the picture it touches.

    The picture has ``height`` x ``width`` pixels, and the shape's centre lies in it.

    Returns:
        ((h, w) values in [0, 1], rows, columns) of that part.
    """
    reach = 1.5 * max(shape.half_size)
    x, y = shape.centre
    x0, x1 = max(0, int(x - reach)), min(width, int(x + reach) + 2)
    y0, y1 = max(0, int(y - reach)), min(height, int(y + reach) + 2)
    step = (np.arange(SUBPIXELS) + 0.5) / SUBPIXELS
    px = (np.arange(x0, x1)[:, None] + step).reshape(-1) - x
    py = (np.arange(y0, y1)[:, None] + step).reshape(-1) - y
    cos, sin = np.cos(shape.angle), np.sin(shape.angle)
    u = (cos * px[None] + sin * py[:, None]) / shape.half_size[0]
    v = (cos * py[:, None] - sin * px[None]) / shape.half_size[1]
    fine = inside(shape.kind, u, v)
    cover = fine.reshape(y1 - y0, SUBPIXELS, x1 - x0, SUBPIXELS).mean((1, 3))
    return cover, slice(y0, y1), slice(x0, x1)


def paint(part: Picture, cover: Picture, colour: NDArray[np.float64], shade: float) -> None:
    """Blend a shape into the (h, w, 3) part of the picture that it touches, in place.

    ``cover`` is (h, w), see :func:`coverage`; ``colour`` (3,) RGB in [0, 255]; ``shade`` the
    brightness gradient across the shape, in colour steps.
    """
    ramp = np.linspace(-shade, shade, cover.shape[1])[None, :, None]
    part += cover[..., None] * (colour + ramp - part)


def smooth_noise(rng: np.random.Generator, height: int, width: int, cell: int) -> Picture:
    """(H, W) noise in [-1, 1], linear between random values ``cell`` pixels apart."""
    grid = rng.uniform(-1, 1, (height // cell + 2, width // cell + 2))
    y, x = np.arange(height) / cell, np.arange(width) / cell
    i, j = y.astype(int), x.astype(int)
    fy, fx = (y - i)[:, None], (x - j)[None]
    top = grid[i][:, j] * (1 - fx) + grid[i][:, j + 1] * fx
    low = grid[i + 1][:, j] * (1 - fx) + grid[i + 1][:, j + 1] * fx
    return top * (1 - fy) + low * fy


def background(rng: np.random.Generator, height: int, width: int) -> Picture:
    """(H, W, 3) textured background: a tint, two scales of smooth noise, stripes, grain."""
    tint = rng.uniform(60, 195, 3)
    picture = np.broadcast_to(tint, (height, width, 3)).copy()
    coarse, fine = max(8, max(height, width) // 3), max(4, max(height, width) // 12)
    for channel in range(3):
        picture[..., channel] += 22 * smooth_noise(rng, height, width, coarse)
    picture += 12 * smooth_noise(rng, height, width, fine)[..., None]
    if rng.random() < 0.4:
        slope, period = rng.uniform(-1, 1, 2), rng.uniform(6, 30)
        y, x = np.mgrid[:height, :width]
        picture += 7 * np.sin((slope[0] * x + slope[1] * y) * 2 * np.pi / period)[..., None]
    picture += rng.normal(0, 4, (height, width, 1))
    return picture


def clutter(rng: np.random.Generator, picture: Picture, strokes: int) -> None:
    """Draw faint strokes, which belong to no class, into an (H, W, 3) picture in place."""
    height, width = picture.shape[:2]
    y, x = np.mgrid[:height, :width] + 0.5
    for _ in range(strokes):
        cx, cy = rng.uniform(0, width), rng.uniform(0, height)
        angle, length = rng.uniform(0, np.pi), rng.uniform(0.05, 0.4) * max(height, width)
        along = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        across = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        across += rng.uniform(-1, 1) * along * along / max(height, width)
        on = (np.abs(along) < length / 2) & (np.abs(across) < rng.uniform(0.5, 1.4))
        picture[on] += rng.uniform(-45, 45, 3)


def contrasting_colour(
    rng: np.random.Generator, against: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(3,) random RGB colour at least 75 (Euclidean) away from ``against``."""
    for _ in range(50):
        colour = rng.uniform(10, 245, 3)
        if np.linalg.norm(colour - against) >= 75:
            return colour
    return np.where(against > 127.5, 20.0, 235.0)
