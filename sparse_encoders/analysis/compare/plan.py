"""Checks of a comparison before any work starts."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

import sparse_encoders  # noqa: F401  (registers the package)
from sparse_encoders.analysis.compare.configs import (
    input_size,
    share_intervals,
    use_our_detector,
    with_encoder,
)
from sparse_encoders.analysis.compare.settings import OF_CONFIG, SHAPES, Comparison
from sparse_encoders.analysis.compare.store import file_digest
from sparse_encoders.analysis.matching import Match, match_dense, to_be_matched
from sparse_encoders.analysis.quiet import quiet
from sparse_encoders.analysis.variants import MATCHED, VARIANTS
from sparse_encoders.datasets.coco_folder import innermost, use_coco_folder
from sparse_encoders.datasets.shapes import make_shapes_dataset
from sparse_encoders.loading import check_fit, read_checkpoint, read_config


@dataclass(frozen=True)
class Data:
    """The data set on which accuracy is measured.

    Attributes:
        name: as the command line has it.
        annotations: COCO file of the validation images.
        images: folder of the validation images.
        classes: names of the classes.
        validated: validation images.
        boxes: boxes on them.
        trained: training images; None where no one counts them.
        digest: of the content of the annotation files.
    """

    name: str
    annotations: Path
    images: Path
    classes: tuple[str, ...]
    validated: int
    boxes: int
    trained: int | None
    digest: str

    def as_record(self) -> dict[str, Any]:
        """For JSON; without paths."""
        return {k: v for k, v in asdict(self).items() if k not in ("annotations", "images")}


@dataclass(frozen=True)
class Plan:
    """The checked settings and configs of a comparison.

    Attributes:
        settings: the comparison.
        detector: type of the detector.
        base: the config, with its data filled in.
        configs: encoder to the config with it.
        unfit: encoder to why the config cannot have it.
        size: (height, width) in pixels of the measured image.
        data: None where no accuracy is measured.
        match: what 'dense-matched' is; None where it is not compared.
    """

    settings: Comparison
    detector: str
    base: Config
    configs: dict[str, Config]
    unfit: dict[str, str]
    size: tuple[int, int]
    data: Data | None
    match: Match | None = None


def make_plan(settings: Comparison) -> Plan:
    """Read and check the settings, config and data; draws the shapes set if it is requested.

    Raises:
        ValueError: config, data or a checkpoint cannot be used; the message says what to do.
    """
    init_default_scope("mmdet")
    try:
        base = read_config(settings.config)
    except ValueError as error:
        raise ValueError(f"CONFIG: {error}") from error
    detector = use_our_detector(base, settings.config)
    base.merge_from_dict(dict(settings.options))
    share_intervals(base)
    classes = {
        name: check_checkpoint(base, settings, name, name)
        for name in settings.checkpoints
        if name != MATCHED  # its layers are counted with the data's number of classes
    }
    data = fill_in_data(base, settings)
    size = settings.size or input_size(base)
    match = _match(base, settings, size)
    known = {MATCHED: match.variant} if match else {}
    if match and MATCHED in settings.checkpoints:
        classes[MATCHED] = check_checkpoint(base, settings, MATCHED, match.variant)
    for name, trained in classes.items():
        if data is not None and trained not in (None, data.classes):
            raise ValueError(
                f"--checkpoints {name}={settings.checkpoints[name]} was trained on "
                f"{_listed(trained)}, --data {data.name} has {_listed(data.classes)}: name the "
                "data set that it was trained on"
            )
    configs, unfit = {}, {}
    for name in settings.names:
        try:
            configs[name] = _config(base, settings, known.get(name, name))
        except ValueError as error:
            if name in settings.encoders:  # a control that does not fit is left out
                unfit[name] = str(error)
    for name in settings.derived:
        try:
            MODELS.build(copy.deepcopy(configs[name].model))
        except Exception as error:  # whatever a setting makes the encoder say
            raise ValueError(f"--variant {name}: {error}") from error
    return Plan(settings, detector, base, configs, unfit, size, data, match)


def _match(base: Config, settings: Comparison, size: tuple[int, int]) -> Match | None:
    """What 'dense-matched' is: matched to an encoder as that is trained."""
    if MATCHED not in settings.names:
        return None
    name = to_be_matched(settings.names)
    encoder = _config(base, settings, name).model.encoder
    return match_dense(base.model, name, encoder, size)


def _config(base: Config, settings: Comparison, name: str) -> Config:
    """The config with one of the encoders that are compared."""
    options = settings.derived[name].options if name in settings.derived else {}
    return with_encoder(base, settings.base_of(name), settings.train_ratio, options)


def check_checkpoint(
    base: Config, settings: Comparison, name: str, variant: str
) -> tuple[str, ...] | None:
    """The classes that a checkpoint was trained on, where it says so.

    Args:
        base: the config, with whatever encoder.
        settings: the comparison; the checkpoint is its ``name``'s.
        name: as compared.
        variant: name of the encoder: another one if ``name`` is 'dense-matched'.

    Raises:
        ValueError: there is no such file, or it belongs to another model; says to
            which encoder, where one of ours fits.
    """
    path = settings.checkpoints[name]
    where = f"--checkpoints {name}={path}"
    if not path.is_file():
        raise ValueError(f"{where}: there is no such file; train it with --train EPOCHS")
    with quiet():
        file = read_checkpoint(path)

    def problem(encoder: str) -> str | None:
        try:
            config = _config(base, settings, encoder)
            if file.classes is not None:
                config.model.bbox_head.num_classes = len(file.classes)
            with quiet():
                check_fit(MODELS.build(config.model), file.state, f"checkpoint {path}")
        except ValueError as error:
            return str(error)
        return None

    misfit = problem(variant)
    if misfit is None:
        return file.classes
    others = [n for n in VARIANTS if n != name and problem(n) is None]
    advice = "it fits no encoder of this CONFIG: is it from another detector or CONFIG?"
    if others:
        advice = f"it fits the encoder {' or '.join(others)}: name it {others[0]}={path}"
    raise ValueError(f"{where}: {misfit}; {advice}")


def fill_in_data(base: Config, settings: Comparison) -> Data | None:
    """Write the data set into the config, in place.

    Raises:
        ValueError: it is not there, is empty, or lacks images.
    """
    if settings.data is None:
        return None
    if settings.data != OF_CONFIG:
        root = settings.out / SHAPES if settings.data == SHAPES else Path(settings.data)
        if settings.data == SHAPES:
            make_shapes_dataset(root, settings.shapes)
        elif not root.is_dir():
            raise ValueError(
                f"--data: there is no folder {settings.data}; it must hold train.json, val.json "
                f"and images, or say '{SHAPES}' for a drawn set"
            )
        try:
            use_coco_folder(base, root)
        except ValueError as error:
            raise ValueError(f"--data {settings.data}: {error}") from error
    return _data_of(base, settings.data)


def _data_of(base: Config, name: str) -> Data:
    dataset, annotations = innermost(base.test_dataloader.dataset), _annotations(base, "test")
    root = Path(dataset.get("data_root") or "")
    images = root / dataset.get("data_prefix", {}).get("img", "")
    where = f"--data {name}:"
    if not annotations.is_file():
        raise ValueError(
            f"{where} CONFIG's test annotations {annotations} are not there; name a folder in "
            "COCO's format instead"
        )
    content = json.loads(annotations.read_text())
    classes = [category["name"] for category in content["categories"]]
    pictures, boxes = content["images"], len(content["annotations"])
    if not pictures or not boxes:
        has = f"{len(pictures)} images and {boxes} boxes"
        raise ValueError(f"{where} {annotations} has {has}: AP needs some of both")
    missing = [i["file_name"] for i in pictures if not (images / i["file_name"]).is_file()]
    if missing:
        raise ValueError(
            f"{where} {len(missing)} of {len(pictures)} images of {annotations} are not below "
            f"{images}, such as {missing[0]}"
        )
    train = _annotations(base, "train")
    counted = train.is_file()
    return Data(
        name=name,
        annotations=annotations,
        images=images,
        classes=tuple(dataset.get("metainfo", {}).get("classes", classes)),
        validated=len(pictures),
        boxes=boxes,
        trained=len(json.loads(train.read_text())["images"]) if counted else None,
        digest="-".join(map(file_digest, [annotations, train] if counted else [annotations])),
    )


def _annotations(base: Config, stage: str) -> Path:
    """Annotation file of a stage's data."""
    dataset = innermost(base[f"{stage}_dataloader"].dataset)
    return Path(dataset.get("data_root") or "") / str(dataset.get("ann_file") or "")


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:5])
    return f"{len(names)} classes ({shown}{', ...' if len(names) > 5 else ''})"
