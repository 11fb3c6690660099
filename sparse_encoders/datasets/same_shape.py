"""Batches of images of one shape, which need no padding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmdet.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler, Sampler


@DATA_SAMPLERS.register_module()
class SameShapeBatchSampler(BatchSampler):
    """Groups images of the same width and height, for data sets of a few shapes.

    A batch is padded to its largest image, and a detector computes padding like valid
    pixels. MMDetection's ``AspectRatioBatchSampler`` only separates landscape and portrait.

    Images are taken in the sampler's order; a batch is complete as soon as a shape has enough
    images. The rest at the end of an epoch is sorted by shape and batched, so that there are as
    many batches as without grouping.

    Args:
        sampler: yields the indices; its data set has ``width`` and ``height`` of each image.
        batch_size: images in a batch, at least 1.
        drop_last: leave out a last batch that is smaller.

    Raises:
        ValueError: a batch size below 1.
    """

    def __init__(self, sampler: Sampler[int], batch_size: int, drop_last: bool = False) -> None:
        super().__init__(sampler, batch_size, drop_last)
        self._dataset: Any = sampler.dataset  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[list[int]]:
        """Indices of one batch after another."""
        waiting: dict[tuple[int, int], list[int]] = {}
        for index in self.sampler:
            info = self._dataset.get_data_info(index)
            group = waiting.setdefault((info["width"], info["height"]), [])
            group.append(index)
            if len(group) == self.batch_size:
                yield list(group)
                group.clear()
        rest = [index for shape in sorted(waiting) for index in waiting[shape]]
        for start in range(0, len(rest), self.batch_size):
            batch = rest[start : start + self.batch_size]
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch
