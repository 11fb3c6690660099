"""Train on any COCO-format folder by naming it once.

MMDetection spreads a data set over a config: three data loaders, two evaluators,
the number of classes. :func:`use_coco_folder` writes all of them, in a script or
in a config, for every runner::

    _base_ = "mmdet_configs/dino/dino_lite0_focus_coco-folder.py"

    from sparse_encoders.datasets import use_coco_folder

    use_coco_folder(_base_, "DATA/cells", scale=(640, 480))

``_base_`` must come before the import, because MMEngine otherwise reads the config as one of its
new style. Class names are read from the annotations if they are not given. All paths and classes
are checked before anything is built.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict


@dataclass(frozen=True)
class CocoFolder:
    """A data set in COCO's format.

    Attributes:
        root: folder that relative paths start from; '': the working directory.
        train: annotation file of the training images.
        val: annotation file of the validation images.
        images: folder that the annotations' file names start from.
        val_images: the same for the validation images; None: ``images``.
        classes: class names to learn, any subset of the annotations'; None or
            empty: all of them.
    """

    root: str = ""
    train: str = "train.json"
    val: str = "val.json"
    images: str = "images"
    val_images: str | None = None
    classes: Sequence[str] | str | None = None

    @classmethod
    def of(cls, folder: CocoFolder | str | Path | Mapping[str, Any]) -> CocoFolder:
        """From a path, or a dict of the attributes.

        Raises:
            ValueError: it is neither, or the dict has an unknown key.
        """
        if isinstance(folder, CocoFolder):
            return folder
        if isinstance(folder, str | Path):
            return cls(root=str(folder))
        accepted = list(cls.__dataclass_fields__)
        if not isinstance(folder, Mapping) or folder.keys() - set(accepted):
            raise ValueError(f"folder must be a path or a dict of {accepted}, got {folder!r}")
        return cls(**folder)

    def annotations(self, split: str) -> Path:
        """Annotation file of 'train' or 'val', which exists.

        Raises:
            ValueError: it does not.
        """
        path = Path(self.root) / (self.train if split == "train" else self.val)
        if not path.is_file():
            raise ValueError(f"{split}: there is no annotation file {path}")
        return path

    def image_folder(self, split: str) -> Path:
        """Image folder of 'train' or 'val', which exists.

        Raises:
            ValueError: it does not.
        """
        own = split == "val" and self.val_images is not None
        path = Path(self.root) / str(self.val_images if own else self.images)
        if not path.is_dir():
            name = "val_images" if own else "images"
            raise ValueError(f"{name}: there is no folder {path}")
        return path

    def class_names(self) -> tuple[str, ...]:
        """Class names, in the order of the training annotations' categories.

        MMDetection counts labels in that order, whatever order classes are listed in.

        Raises:
            ValueError: an annotation file is not COCO's, has no images or
                boxes, or lacks a class.
        """
        train = read_categories(self.annotations("train"))
        wanted = [self.classes] if isinstance(self.classes, str) else list(self.classes or train)
        missing = [name for name in wanted if name not in train]
        if missing:
            raise ValueError(
                f"classes: {missing} are not among the categories of "
                f"{self.annotations('train')}: {train}"
            )
        names = tuple(name for name in train if name in wanted)
        val = tuple(n for n in read_categories(self.annotations("val")) if n in wanted)
        if val != names:
            raise ValueError(
                "train and val must list the same categories in the same order, got "
                f"{names} and {val}"
            )
        return names


def read_categories(path: Path) -> list[str]:
    """Category names of a COCO annotation file, in its order.

    Raises:
        ValueError: the file is not in COCO's format, lists no images or no
            categories, or a category twice.
    """
    try:
        content = json.loads(path.read_text())
        images, names = content["images"], [str(c["name"]) for c in content["categories"]]
        for first in images[:1]:
            itemgetter("file_name", "id", "width", "height")(first)
        for first in content["annotations"][:1]:
            itemgetter("bbox", "category_id", "image_id")(first)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a COCO annotation file: {error!r}") from error
    if not images or not names:
        raise ValueError(f"{path} lists {len(images)} images and {len(names)} categories")
    if len(set(names)) != len(names):
        raise ValueError(f"{path} lists a category name twice: {names}")
    return names


def use_coco_folder(
    cfg: Config | ConfigDict,
    folder: CocoFolder | str | Path | Mapping[str, Any],
    scale: Sequence[int] | int | None = None,
) -> None:
    """Write a data set into loaders, evaluators, pipelines and model of a config, in place.

    Args:
        cfg: the config; in a config file its ``_base_``.
        folder: where the data set is, or a dict of :class:`CocoFolder`'s attributes.
        scale: (longer, shorter) side in pixels that images are resized to fit, keeping their
            shape; None leaves the pipelines as they are.

    Raises:
        ValueError: see :class:`CocoFolder` and :func:`resize_images`.
    """
    folder = CocoFolder.of(folder)
    classes = folder.class_names()
    for stage, split in (("train", "train"), ("val", "val"), ("test", "val")):
        annotations, images = folder.annotations(split), folder.image_folder(split)
        loader = cfg.get(f"{stage}_dataloader")
        if loader is not None:
            innermost(loader.dataset).update(
                data_root="",
                ann_file=str(annotations),
                data_prefix={"img": str(images)},
                metainfo={"classes": classes},
            )
        evaluator = cfg.get(f"{stage}_evaluator")
        for metric in evaluator if isinstance(evaluator, list) else [evaluator]:
            if metric is not None and "ann_file" in metric:
                metric["ann_file"] = str(annotations)
    cfg.model.bbox_head.num_classes = len(classes)
    if scale is not None:
        resize_images(cfg, scale)


def resize_images(cfg: Config | ConfigDict, scale: Sequence[int] | int) -> None:
    """Set the scale of every resize step in a config's pipelines, in place.

    ``Resize`` and ``FixScaleResize`` get the scale. What draws a size in training keeps its
    proportion to the scale of the test: ``RandomChoiceResize``, ``RandomResize`` and the crops of
    ``RandomCrop`` that are given in pixels.

    Args:
        cfg: the config.
        scale: (longer, shorter) side in pixels, or one number for both.

    Raises:
        ValueError: it is something else, or less than 32 pixels.
    """
    sides = (scale, scale) if isinstance(scale, int) else tuple(scale)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 32 for side in sides):
        raise ValueError(f"scale must be one or two integers of at least 32 pixels, got {scale!r}")
    new = max(sides), min(sides)
    steps = [
        step
        for stage in ("test", "val", "train")
        if (loader := cfg.get(f"{stage}_dataloader")) is not None
        for step in _steps(innermost(loader.dataset).pipeline)
    ]
    fixed = [step for step in steps if step.get("type") in ("Resize", "FixScaleResize")]
    old = next((step["scale"] for step in fixed if _is_pair(step.get("scale"))), new)
    for step in fixed:
        step["scale"] = new
    longer, shorter = max(new) / max(old), min(new) / min(old)
    for step in steps:
        if step.get("type") == "RandomChoiceResize":
            step["scales"] = [_times(pair, longer, shorter) for pair in step["scales"]]
        elif step.get("type") == "RandomResize":
            pairs = [step["scale"]] if _is_pair(step["scale"]) else step["scale"]
            pairs = [_times(pair, longer, shorter) for pair in pairs]
            step["scale"] = pairs[0] if len(pairs) == 1 else pairs
        elif step.get("type") == "RandomCrop" and "absolute" in step.get("crop_type", "absolute"):
            step["crop_size"] = _times(step["crop_size"], shorter, shorter)


def _is_pair(scale: Any) -> bool:
    return isinstance(scale, (list, tuple)) and all(isinstance(side, int) for side in scale)


def _times(pair: Sequence[int], longer: float, shorter: float) -> tuple[int, int]:
    """The sides in their order, the longer and the shorter one times these factors."""
    first, second = (longer, shorter) if pair[0] > pair[1] else (shorter, longer)
    return max(1, round(pair[0] * first)), max(1, round(pair[1] * second))


def innermost(dataset: Any) -> Any:
    """The data set that others are wrapped around."""
    while "dataset" in dataset:
        dataset = dataset.dataset
    return dataset


def _steps(pipeline: Any) -> Iterator[Any]:
    """Every transform of a pipeline, nested ones included."""
    for step in pipeline:
        if isinstance(step, dict):
            yield step
            yield from _steps(step.get("transforms", ()))
        elif isinstance(step, (list, tuple)):
            yield from _steps(step)
