"""Train on any COCO-format folder by naming its paths once.

MMDetection spreads a data set over a config: three data loaders, two evaluators,
the number of classes. A config with ``runner_type='CocoFolderRunner'`` names it
in one place, ``coco_folder``, which can be set from the command line too::

    --cfg-options coco_folder.root=DATA/cells coco_folder.train=train.json

Class names are read from the annotations where they are not given. Everything
is checked before anything is built.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner


@dataclass(frozen=True)
class CocoFolder:
    """A data set in COCO's format.

    Attributes:
        root: folder that the other paths start from; they may be absolute too.
        train: annotation file of the training images.
        val: annotation file of the validation images.
        images: folder that the annotations' file names start from.
        val_images: the same for the validation images; None: ``images``.
        classes: class names to learn, any subset of the annotations'; None or
            empty: all of them.
        scale: (longer, shorter) side in pixels that images are resized to fit,
            keeping their shape; None leaves the pipelines as they are.

    Raises:
        ValueError: a setting has the wrong form.
    """

    root: str = ""
    train: str = "train.json"
    val: str = "val.json"
    images: str = "images"
    val_images: str | None = None
    classes: Sequence[str] | str | None = None
    scale: Sequence[int] | int | None = None

    @classmethod
    def from_config(cls, settings: Any) -> CocoFolder:
        """From the ``coco_folder`` of a config.

        Raises:
            ValueError: it is no dict, has an unknown key, or misses its root.
        """
        accepted = list(cls.__dataclass_fields__)
        if not isinstance(settings, dict) or settings.keys() - set(accepted):
            raise ValueError(f"coco_folder must be a dict of {accepted}, got {settings!r}")
        if not settings.get("root"):
            raise ValueError(
                "coco_folder.root is not set: name the folder of the data set in the config or "
                "by --cfg-options coco_folder.root=FOLDER"
            )
        return cls(**settings)

    @property
    def sides(self) -> tuple[int, int] | None:
        """``scale`` as (longer, shorter)."""
        if self.scale is None:
            return None
        got = (self.scale, self.scale) if isinstance(self.scale, int) else tuple(self.scale)
        if len(got) != 2 or not all(isinstance(s, int) and s >= 32 for s in got):
            raise ValueError(
                "coco_folder.scale must be one or two whole numbers of at least 32 pixels, "
                f"got {self.scale!r}"
            )
        return max(got), min(got)

    def annotations(self, split: str) -> Path:
        """Annotation file of 'train' or 'val', which exists.

        Raises:
            ValueError: it does not.
        """
        path = Path(self.root) / (self.train if split == "train" else self.val)
        if not path.is_file():
            raise ValueError(f"coco_folder.{split}: there is no annotation file {path}")
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
            raise ValueError(f"coco_folder.{name}: there is no folder {path}")
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
                f"coco_folder.classes: {missing} are not among the categories of "
                f"{self.annotations('train')}: {train}"
            )
        names = tuple(name for name in train if name in wanted)
        val = tuple(n for n in read_categories(self.annotations("val")) if n in wanted)
        if val != names:
            raise ValueError(
                "coco_folder: train and val must list the same categories in the same order, got "
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
        first = images[0] if images else None
        for key in ("file_name", "id", "width", "height"):
            if first is not None:
                first[key]
        for box in content["annotations"][:1]:
            box["bbox"], box["category_id"], box["image_id"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no COCO annotation file: {error!r}") from error
    if not images or not names:
        raise ValueError(f"{path} lists {len(images)} images and {len(names)} categories")
    if len(set(names)) != len(names):
        raise ValueError(f"{path} lists a category name twice: {names}")
    return names


def apply_coco_folder(cfg: Config) -> Config:
    """Write ``cfg.coco_folder`` into loaders, evaluators, pipelines and model, in place.

    Raises:
        ValueError: as :class:`CocoFolder` says.
    """
    folder = CocoFolder.from_config(cfg.get("coco_folder"))
    classes = folder.class_names()
    for stage, split in (("train", "train"), ("val", "val"), ("test", "val")):
        annotations, images = folder.annotations(split), folder.image_folder(split)
        loader = cfg.get(f"{stage}_dataloader")
        if loader is not None:
            _inner(loader.dataset).update(
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
    return apply_scale(cfg)


def apply_scale(cfg: Config) -> Config:
    """Write ``cfg.coco_folder.scale`` into the loaders' pipelines, in place.

    The folder itself need not exist: a trained detector looks at any image.
    """
    sides = CocoFolder(scale=cfg.coco_folder.get("scale")).sides
    for stage in ("train", "val", "test"):
        loader = cfg.get(f"{stage}_dataloader")
        if loader is None or sides is None:
            continue
        for step in _steps(_inner(loader.dataset).pipeline):
            if step.get("type") in ("Resize", "FixScaleResize"):
                step["scale"] = sides
    return cfg


def _inner(dataset: Any) -> Any:
    """The data set that wrappers hold."""
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


@RUNNERS.register_module()
class CocoFolderRunner(Runner):
    """MMEngine's runner; fills in ``coco_folder`` first, see :func:`apply_coco_folder`."""

    @classmethod
    def from_cfg(cls, cfg: Any) -> Runner:
        """Build the runner of a config that has a ``coco_folder``."""
        return super().from_cfg(apply_coco_folder(cfg))
