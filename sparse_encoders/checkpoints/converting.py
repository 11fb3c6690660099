"""Conversion of a released checkpoint file to one of this package, with its config."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

import sparse_encoders
from sparse_encoders.checkpoints.classes import (
    CATEGORY_NUMBERS,
    ClassRows,
    class_agnostic_first_stage,
    class_names,
    class_rows,
    with_classes,
)
from sparse_encoders.checkpoints.conversion import Conversion, convert, load_converted
from sparse_encoders.checkpoints.families import check_family
from sparse_encoders.checkpoints.matching import differences, facts, matching_config
from sparse_encoders.checkpoints.released import model_config
from sparse_encoders.checkpoints.settings import Setting, release_settings
from sparse_encoders.loading import Checkpoint, read_checkpoint, read_config
from sparse_encoders.loading.detectors import COUNTERS
from sparse_encoders.skip_init import SkipInit

# parts of a detector's config that follow from a released model; others belong to training
_DECIDED = ("backbone", "neck", "encoder", "decoder", "positional_encoding")


@dataclass(frozen=True)
class Converted:
    """A converted file.

    Attributes:
        source: path of the released file.
        family: its family.
        convention: naming convention of its tensors, see :data:`FAMILIES`.
        file: its content.
        settings: the model's settings with their sources.
        model: the model's config.
        conversion: the converted tensors.
        config: name of the nearest config, as in ``sparse_encoders::NAME``.
        differing: for settings in which the model differs from that config, the model's value
            and the config's.
        classes: initial rows of other classes, if these were requested.
    """

    source: Path
    family: str
    convention: str
    file: Checkpoint
    settings: dict[str, Setting]
    model: dict[str, Any]
    conversion: Conversion
    config: str
    differing: dict[str, tuple[Any, Any]]
    classes: ClassRows | None = None

    @property
    def checkpoint(self) -> dict[str, Any]:
        """A checkpoint for MMEngine: ``state_dict`` and ``meta``."""
        classes = self.model["bbox_head"]["num_classes"]
        meta = {
            "sparse_encoders_version": sparse_encoders.__version__,
            "converted_from": self.source.name,
            "family": self.family,
            "names": self.convention,
            "config": f"sparse_encoders::{self.config}",
            "differs_from_config": {k: repr(v[0]) for k, v in self.differing.items()},
            "left_out": dict(self.conversion.left_out),
            "shortened": dict(self.conversion.shortened),
        }
        own = class_names(classes) if self.classes is None else self.classes.names
        if own:
            meta["dataset_meta"] = {"classes": own}
        return {"meta": meta, "state_dict": self.conversion.state}

    def report(self, all_names: bool = False) -> Iterator[str]:
        """A report of the conversion, line by line.

        Args:
            all_names: one line for each tensor that was left out, instead of one for each reason.
        """
        yield f"{self.source.name}: {self.family}, {self.convention} names" + (
            f", weights under {self.file.key!r}" if self.file.key else ""
        )
        if self.file.others:
            yield f"not used: further weights under {', '.join(self.file.others)}"
        for name, setting in self.settings.items():
            yield f"  {name} = {setting.value}  ({setting.source})"
        left = self.conversion.left_out
        yield f"{len(self.conversion.state)} tensors converted, {len(left)} left out"
        if all_names:
            yield from (f"  {name}: {reason}" for name, reason in left.items())
        else:
            yield from _by_reason(left)
        for name, reason in self.conversion.shortened.items():
            yield f"  {name}, in part: {reason}"
        if self.classes is not None:
            yield str(self.classes)
        for name in self.file.not_tensors:
            yield f"  {name}: not a tensor"
        yield f"config: sparse_encoders::{self.config}"
        for name, (ours, theirs) in self.differing.items():
            yield f"  differs: {name} is {ours}, the config has {theirs}"
        if self.model["bbox_head"]["num_classes"] == 91:
            yield (
                "the 91 classes are COCO's category numbers; --coco80 keeps the 80 classes of "
                "MMDetection's datasets"
            )


def convert_file(
    path: str | Path,
    family: str,
    *,
    num_classes: int | None = None,
    coco80: bool = False,
    classes: int | Sequence[str] | None = None,
    averaged: bool = False,
    **options: Any,
) -> Converted:
    """Convert a released checkpoint.

    Args:
        path: the file.
        family: one of :data:`sparse_encoders.checkpoints.families.FAMILIES`.
        num_classes: number of classes that the file must have; None: any number.
        coco80: cut 91 classes to COCO's 80 categories.
        classes: for training on other classes, see :func:`class_rows`.
        averaged: use the averaged weights (EMA) of a file that has both.
        **options: settings that do not follow from the tensors, see :func:`release_settings`.

    Raises:
        ValueError: a file that cannot be read, one of another family, another number of classes,
            or tensors that are missing, additional or of another shape.
    """
    if coco80 and classes is not None:
        raise ValueError("classes and coco80 exclude each other; classes may name COCO's classes")
    init_default_scope("mmdet")
    file = read_checkpoint(path, averaged)
    convention = check_family(file.state, family)
    shapes = {name: tuple(value.shape) for name, value in file.state.items()}
    try:
        settings = release_settings(family, shapes, file.args, options)
        released_classes = settings["num_classes"].value
        if num_classes is not None and num_classes != released_classes:
            raise ValueError(f"the heads have {released_classes} classes, not {num_classes}")
        values = {name: setting.value for name, setting in settings.items()}
        model = model_config(family, values, shapes)
    except (KeyError, StopIteration) as error:
        raise ValueError(
            f"{path} has the names of a {family} model, but is incomplete: {error} is missing"
        ) from error
    conversion = convert(file.state, family, model)
    mapped = None if classes is None else class_rows(classes, released_classes)
    if coco80 and released_classes != 91:
        raise ValueError(
            "only heads with 91 classes can be cut to COCO's 80 categories, the file's have "
            f"{released_classes}"
        )
    if coco80 or mapped is not None:
        rows = CATEGORY_NUMBERS if mapped is None else mapped.rows
        removed = released_classes - len(set(rows) - {None})
        why = "not the number of a category of COCO" if mapped is None else "of other classes"
        first_stage = class_agnostic_first_stage(model)
        conversion.state.update(with_classes(conversion.state, rows, first_stage))
        model["bbox_head"]["num_classes"] = len(rows)
        for name in file.state:
            if ("class_embed" in name or "label_enc" in name) and name not in conversion.left_out:
                conversion.shortened[name] = f"{removed} rows of {released_classes}: {why}"
    built = load_converted(model, conversion.state)
    # releases have no counters of frozen norms: keep those of the built model
    conversion.state.update({n: v for n, v in built.state_dict().items() if n.endswith(COUNTERS)})
    nearest = matching_config(family, model, file.args).path.as_posix()
    with SkipInit():  # only its settings are read, not its weights
        named = MODELS.build(read_config(f"sparse_encoders::{nearest}").model)
    return Converted(
        source=Path(path),
        family=family,
        convention=convention,
        file=file,
        settings=settings,
        model=model,
        conversion=conversion,
        config=nearest,
        differing=differences(facts(built), facts(named)),
        classes=mapped,
    )


def write_converted(converted: Converted, path: str | Path) -> Path | None:
    """Write the checkpoint and, if the package's config differs, a config next to it.

    Args:
        converted: see :func:`convert_file`.
        path: of the checkpoint.

    Returns:
        Path of the written config, which has all settings and loads the checkpoint, for
        ``mim test`` and ``mim train``. None if the package's own config fits.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(converted.checkpoint, path)
    if not converted.differing:
        return None
    config = ready_config(converted)
    config.load_from = str(path)
    written = path.with_suffix(".py")
    lines = [f"# {converted.source.name}, a released {converted.family}, as converted."]
    lines += [f"# Other than sparse_encoders::{converted.config}:"]
    lines += [f"#   {name}: {ours}" for name, (ours, _) in converted.differing.items()]
    written.write_text("\n".join([*lines, "", config.pretty_text]))
    return written


def ready_config(converted: Converted) -> Config:
    """The nearest config with the released model's settings."""
    config = read_config(f"sparse_encoders::{converted.config}")
    model: dict[str, Any] = config.model.to_dict()
    released = copy.deepcopy(converted.model)
    for key, value in released.items():
        if key in _DECIDED or key not in model or not isinstance(value, Mapping):
            model[key] = value
    model["bbox_head"].update({key: released["bbox_head"][key] for key in ("type", "num_classes")})
    model["test_cfg"].update(released["test_cfg"])
    config.merge_from_dict({"model": {**model, "_delete_": True}})
    config.custom_imports = dict(imports=["sparse_encoders"])
    return config


def _by_reason(left_out: Mapping[str, str]) -> Iterator[str]:
    """One line for each kind of reason."""
    kinds: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        kind = "a second name of another one" if reason.startswith("a second name") else reason
        kinds.setdefault(kind, []).append(name)
    for reason, names in kinds.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield f"  {names[0]}{more}: {reason}"
