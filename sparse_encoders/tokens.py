"""The flattened feature pyramid and its geometry.

Shapes: B images, N tokens (all levels, finest first, row by row), L levels, C channels. N is known
on the host; how many tokens of an image are valid (not padding) is known on the device only and is
applied by masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import floor
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from sparse_encoders.shapes import is_traced

T = TypeVar("T")
LevelShapes = tuple[tuple[int, int], ...]

# Two-stage proposals (Deformable DETR, appendix A.4): centre and size of a usable one lie strictly
# inside the bounds; the side, a share of the image, doubles with each level.
PROPOSAL_BOUNDS = (0.01, 0.99)
PROPOSAL_SIDE = 0.05


class _once(Generic[T]):
    """A property that is computed at the first access and then stored.

    ``functools.cached_property`` takes a lock before Python 3.12, which stops ``torch.compile``.
    """

    def __init__(self, compute: Callable[[TokenGrid], T]) -> None:
        self.compute = compute
        self.name = compute.__name__
        self.__doc__ = compute.__doc__

    def __get__(self, grid: TokenGrid, owner: type[TokenGrid] | None = None) -> T:
        value = self.compute(grid)
        # the instance attribute hides this descriptor from now on
        object.__setattr__(grid, self.name, value)
        return value


@dataclass(frozen=True)
class TokenGrid:
    """One batch of tokens, as a detector hands it to its encoder.

    Attributes:
        features: (B, N, C) flattened feature maps.
        pos_embed: (B, N, C) position embedding plus level embedding.
        padding_mask: (B, N) bool, True where a token is padding; None if no image is padded.
        shapes: (height, width) of each level, finest first.
        valid_ratios: (B, L, 2) valid share of each level's (width, height).
        image_hw: (height, width) of the batched input in pixels; None if unknown.
        max_valid: largest number of valid tokens of any image, if known on the host;
            it bounds the sizes of tensors and does not change which tokens are kept.
        level_max_valid: the same for each level.
    """

    features: Tensor
    pos_embed: Tensor
    padding_mask: Tensor | None
    shapes: LevelShapes
    valid_ratios: Tensor
    image_hw: tuple[int, int] | None = None
    max_valid: int | None = None
    level_max_valid: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        total = sum(h * w for h, w in self.shapes)
        if self.features.dim() != 3 or self.features.shape[1] != total:
            raise ValueError(
                f"features must be (B, {total}, C) for level shapes {self.shapes}, "
                f"got {tuple(self.features.shape)}"
            )
        if self.pos_embed.shape != self.features.shape:
            raise ValueError(
                f"pos_embed must have the features' shape {tuple(self.features.shape)}, "
                f"got {tuple(self.pos_embed.shape)}"
            )

    @classmethod
    def from_maps(
        cls,
        features: Sequence[Tensor],
        pos_embed: Sequence[Tensor],
        padding_masks: Sequence[Tensor] | None = None,
        image_hw: tuple[int, int] | None = None,
    ) -> TokenGrid:
        """Flatten feature maps.

        Args:
            features: per level (B, C, h, w), finest first.
            pos_embed: per level (B, C, h, w), level embedding already added.
            padding_masks: see :func:`padding_masks`.
            image_hw: batched input size in pixels; the level shapes are traced where it is.
        """
        shapes = tuple((f.shape[-2], f.shape[-1]) for f in features)
        if image_hw is None or not is_traced(image_hw[0]):
            shapes = tuple((int(h), int(w)) for h, w in shapes)
        batch = features[0].shape[0]
        if padding_masks is None:
            mask = None
            ratios = features[0].new_ones(batch, len(shapes), 2)
        else:
            mask = torch.cat([m.flatten(1) for m in padding_masks], 1)
            ratios = torch.stack([_valid_ratio(m) for m in padding_masks], 1)
        return cls(
            features=torch.cat([f.flatten(2).transpose(1, 2) for f in features], 1),
            pos_embed=torch.cat([p.flatten(2).transpose(1, 2) for p in pos_embed], 1),
            padding_mask=mask,
            shapes=shapes,
            valid_ratios=ratios,
            image_hw=image_hw,
        )

    @property
    def num_tokens(self) -> int:
        """N, tokens of all levels, padding included."""
        return self.features.shape[1]

    @property
    def num_levels(self) -> int:
        """L, feature levels."""
        return len(self.shapes)

    @_once
    def level_sizes(self) -> tuple[int, ...]:
        """Tokens of each level."""
        return tuple(h * w for h, w in self.shapes)

    @_once
    def level_slices(self) -> tuple[slice, ...]:
        """Slice of each level in the token dimension."""
        ends = [sum(self.level_sizes[: i + 1]) for i in range(self.num_levels)]
        return tuple(slice(e - s, e) for e, s in zip(ends, self.level_sizes, strict=True))

    @property
    def all_levels(self) -> range:
        """Every level, finest first."""
        return range(self.num_levels)

    def tokens_of(self, levels: range) -> slice:
        """Slice of neighbouring levels in the token dimension."""
        return slice(self.level_slices[levels[0]].start, self.level_slices[levels[-1]].stop)

    def capacity_of(self, levels: range) -> int:
        """Upper bound, on the host, of the valid tokens of an image on some levels."""
        part = self.tokens_of(levels)
        total: int = part.stop - part.start
        # without a mask every token is valid
        if self.padding_mask is None:
            return total
        if self.level_max_valid is not None:
            total = min(total, sum(self.level_max_valid[level] for level in levels))
        return total if self.max_valid is None else min(total, self.max_valid)

    def padding_of(self, levels: range) -> Tensor | None:
        """(B, n) bool, the padding mask of some levels; None without padding."""
        return None if self.padding_mask is None else self.padding_mask[:, self.tokens_of(levels)]

    def num_valid(self, levels: range | None = None) -> Tensor:
        """(B,) int64, number of valid tokens of each image, on all or some levels."""
        levels = self.all_levels if levels is None else levels
        mask = self.padding_of(levels)
        if mask is None:
            batch, device = self.features.shape[0], self.features.device
            return torch.full((batch,), self.capacity_of(levels), device=device)
        return (~mask).sum(1)

    def replace_features(self, features: Tensor) -> TokenGrid:
        """The same grid with other features (B, N, C)."""
        return replace(self, features=features)

    @_once
    def reference_points(self) -> Tensor:
        """(B, N, L, 2) centre of each token as (x, y) in [0, 1] of every level's map.

        The centre is normalised by the valid area of the token's level and scaled by that of
        the sampled level (Deformable DETR, section 4.1), so that padding does not shift it.
        """
        device, points = self.features.device, []
        for level, (h, w) in enumerate(self.shapes):
            ratio = self.valid_ratios[:, None, level]
            y, x = _cell_centres(h, w, device)
            points.append(
                torch.stack([x[None] / (ratio[..., 0] * w), y[None] / (ratio[..., 1] * h)], -1)
            )
        return torch.cat(points, 1)[:, :, None] * self.valid_ratios[:, None]

    @_once
    def unusable(self) -> Tensor:
        """(B, N, 1) bool, True where a token is padding or its proposal is out of range.

        These are zeroed before the first-stage projection, as in two-stage Deformable DETR.
        """
        low, high = PROPOSAL_BOUNDS
        bad = ~((self._proposal_boxes > low) & (self._proposal_boxes < high)).all(-1)
        if self.padding_mask is not None:
            bad = bad | self.padding_mask
        return bad.unsqueeze(-1)

    @_once
    def proposals(self) -> Tensor:
        """(B, N, 4) each token's box before the sigmoid, (cx, cy, w, h) of the valid area.

        Infinite where the token is unusable (Deformable DETR, appendix A.4).
        """
        boxes = self._proposal_boxes
        return (boxes / (1 - boxes)).log().masked_fill(self.unusable, torch.inf)

    @_once
    def _proposal_boxes(self) -> Tensor:
        """(B, N, 4) box around each token, whose side doubles with each level."""
        boxes = []
        for level, ((h, w), part) in enumerate(zip(self.shapes, self.level_slices, strict=True)):
            y, x = _cell_centres(h, w, self.features.device)
            height, width = self._valid_size(part, h, w)
            centre = torch.stack([x[None] / width, y[None] / height], -1)
            centre = centre.expand(self.features.shape[0], -1, -1)
            side = torch.full_like(centre, PROPOSAL_SIDE) * 2.0**level
            boxes.append(torch.cat([centre, side], -1))
        return torch.cat(boxes, 1)

    @_once
    def broken(self) -> Tensor:
        """(B, N, 1) bool, True where a token has a NaN feature."""
        return self.features.sum(-1, keepdim=True).isnan()

    def _valid_size(self, part: slice, h: int, w: int) -> tuple[Tensor | int, Tensor | int]:
        """Valid rows and columns of a level: (B, 1) each, or integers without padding."""
        if self.padding_mask is None:
            return h, w
        mask = self.padding_mask[:, part].unflatten(1, (h, w))
        return (~mask[:, :, 0]).sum(1, keepdim=True), (~mask[:, 0, :]).sum(1, keepdim=True)


def _cell_centres(h: int, w: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows and columns of cell centres, each (h * w,), in cells."""
    rows = torch.arange(h, dtype=torch.float32, device=device) + 0.5
    cols = torch.arange(w, dtype=torch.float32, device=device) + 0.5
    y, x = torch.meshgrid(rows, cols, indexing="ij")
    return y.reshape(-1), x.reshape(-1)


def _valid_ratio(mask: Tensor) -> Tensor:
    """(B, 2) valid share of (width, height) of a (B, h, w) padding mask."""
    _, h, w = mask.shape
    return torch.stack([(~mask[:, 0, :]).sum(1) / w, (~mask[:, :, 0]).sum(1) / h], -1)


def padding_masks(
    features: Sequence[Tensor],
    image_hw: tuple[int, int],
    image_sizes: Sequence[tuple[int, int]] | None,
) -> list[Tensor] | None:
    """Per level a (B, h, w) bool mask, True where padded; None if no image is padded.

    As in MMDetection, a mask of the pixels resampled by nearest neighbour.

    Args:
        features: per level (B, C, h, w).
        image_hw: (height, width) of the padded input in pixels.
        image_sizes: (height, width) of each image before padding; None: all fill the input.
    """
    if image_sizes is None or all(tuple(size) == tuple(image_hw) for size in image_sizes):
        return None
    pixels = features[0].new_ones(len(image_sizes), *image_hw)
    for mask, (height, width) in zip(pixels, image_sizes, strict=True):
        mask[:height, :width].zero_()
    return [F.interpolate(pixels[None], size=f.shape[-2:])[0].to(torch.bool) for f in features]


def count_valid(
    shapes: LevelShapes, image_hw: tuple[int, int], valid_hw: tuple[int, int]
) -> tuple[int, ...]:
    """Valid tokens on each level of an image of ``valid_hw`` pixels in a batch of ``image_hw``.

    As in :func:`padding_masks`: row i is valid if pixel floor(i * H / h) is.
    """
    counts = []
    for h, w in shapes:
        rows = sum(floor(i * (image_hw[0] / h)) < valid_hw[0] for i in range(h))
        cols = sum(floor(i * (image_hw[1] / w)) < valid_hw[1] for i in range(w))
        counts.append(rows * cols)
    return tuple(counts)
