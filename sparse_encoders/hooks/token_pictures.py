"""Pictures of the tokens while a detector trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from sparse_encoders.visualization import pictures as drawing


@HOOKS.register_module()
class TokenPicturesHook(Hook):
    """Draw the tokens that the encoder refines in some validation images, during training.

    The pictures go to the runner's visualizer, and so to every backend that it
    has (files, TensorBoard, ...), as ``tokens_{picture}_{image}``. They show the
    weights in training, not an average that another hook keeps. Drawing needs a
    ``val_dataloader``; its annotations are not read, except by a selector that
    needs boxes. In a distributed run the first process draws.

    Args:
        interval: epochs or iterations between pictures.
        by_epoch: whether ``interval`` counts epochs.
        images: number of images, evenly spread over the validation set, or the
            list of their indices in it.
        pictures: of 'kept' (tokens of each layer and level), 'scores' and
            'objects' (of dual attention); None: all that can be drawn for
            the encoder.
        min_score: leave out detections below this score.
        dpi: pixels per inch; a picture is about 10 inches wide.

    Raises:
        ValueError: a setting out of its range; no ``val_dataloader``, or indices
            beyond its end, at the start of training.
    """

    priority = "LOW"

    def __init__(
        self,
        interval: int = 1,
        by_epoch: bool = True,
        images: int | Sequence[int] = 2,
        pictures: Sequence[str] | None = None,
        min_score: float = 0.3,
        dpi: int = 80,
    ) -> None:
        numbers, lowest = ([images], 1) if isinstance(images, int) else (list(images), 0)
        for name, value, low in (("interval", interval, 1), ("dpi", dpi, 20)):
            if not isinstance(value, int) or value < low:
                raise ValueError(f"TokenPicturesHook.{name} must be at least {low}, got {value!r}")
        if not numbers or not all(isinstance(n, int) and n >= lowest for n in numbers):
            raise ValueError(
                "TokenPicturesHook.images must be a number of images of at least 1 or a list of "
                f"indices from 0 on, got {images!r}"
            )
        possible = tuple(drawing.PICTURES)
        if pictures is not None and not (pictures and set(pictures) <= set(possible)):
            raise ValueError(
                f"TokenPicturesHook.pictures must be some of {possible} or None, got {pictures!r}"
            )
        if not 0 <= min_score <= 1:
            raise ValueError(f"TokenPicturesHook.min_score must lie in [0, 1], got {min_score}")
        self.interval, self.by_epoch, self.images = interval, by_epoch, images
        self.pictures, self.min_score, self.dpi = pictures, min_score, dpi

    def before_train(self, runner: Runner) -> None:
        """Check the settings that depend on the validation set."""
        self._indices(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Draw, if the interval counts epochs."""
        if self.by_epoch and self.every_n_epochs(runner, self.interval):
            self.draw(runner, runner.epoch + 1)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Draw, if the interval counts iterations."""
        if not self.by_epoch and self.every_n_train_iters(runner, self.interval):
            self.draw(runner, runner.iter + 1)

    def draw(self, runner: Runner, step: int) -> None:
        """Draw the pictures of every chosen image, for the visualizer to store under ``step``."""
        if runner.rank != 0:
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        dataset = runner.val_dataloader.dataset
        for index in self._indices(runner):
            record = drawing.record_sample(
                model, dataset[index], dataset.metainfo["classes"], self.min_score
            )
            possible = drawing.pictures_of(record)
            for name in possible if self.pictures is None else self.pictures:
                if name not in possible:
                    print_log(
                        f"TokenPicturesHook: {record.encoder} has no {name} to draw", "current"
                    )
                    continue
                picture = drawing.picture_array(drawing.PICTURES[name](record), self.dpi)
                runner.visualizer.add_image(f"tokens_{name}_{index}", picture, step=step)

    def _indices(self, runner: Runner) -> list[int]:
        """Indices of the chosen images in the validation set."""
        if runner.val_loop is None:
            raise ValueError(
                "TokenPicturesHook draws validation images, but the config has no val_dataloader"
            )
        size = len(runner.val_dataloader.dataset)
        if isinstance(self.images, int):
            count = min(self.images, size)
            return [number * size // count for number in range(count)]
        beyond = [index for index in self.images if index >= size]
        if beyond:
            raise ValueError(
                f"TokenPicturesHook.images: {beyond} lie beyond the validation set of {size} images"
            )
        return list(self.images)
