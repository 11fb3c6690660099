"""A released checkpoint file to one of this package's, with its config."""

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
    ClassRows,
    class_agnostic_first_stage,
    class_names,
    class_rows,
    coco_classes_only,
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

# parts of a detector's config that a released model decides; the rest is training's
_DECIDED = ("backbone", "neck", "encoder", "decoder", "positional_encoding")


@dataclass(frozen=True)
class Converted:
    """A released file, converted.

    Attributes:
        source: the file.
        family: its family.
        convention: whose names it has.
        file: what was read.
        settings: the model's settings, and where each comes from.
        model: its config.
        conversion: its tensors.
        config: name of the nearest config, as in ``sparse_encoders::NAME``.
        differing: settings in which the model differs from that config, to its value
            and the config's.
        classes: where other classes start from that were asked for.
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
        """What MMEngine loads: ``state_dict`` and ``meta``."""
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
        """What was found and done, line by line.

        Args:
            all_names: one line for each tensor that was left out, not one a reason.
        """
        used = len(self.conversion.state)
        yield f"{self.source.name}: {self.family}, {self.convention} names" + (
            f", weights under {self.file.place!r}" if self.file.place else ""
        )
        if self.file.others:
            yield f"not taken: further weights under {', '.join(self.file.others)}"
        for name, setting in self.settings.items():
            yield f"  {name} = {setting.value}  ({setting.source})"
        left = self.conversion.left_out
        yield f"{used} tensors converted, {len(left)} left out"
        yield from (
            (f"  {name}: {reason}" for name, reason in left.items())
            if all_names
            else _by_reason(left)
        )
        for name, reason in self.conversion.shortened.items():
            yield f"  {name}, in part: {reason}"
        if self.classes is not None:
            yield str(self.classes)
        for name in self.file.not_tensors:
            yield f"  {name}: no tensor"
        yield f"config: sparse_encoders::{self.config}"
        for name, (ours, theirs) in self.differing.items():
            yield f"  differs: {name} is {ours}, the config has {theirs}"
        if self.model["bbox_head"]["num_classes"] == 91:
            yield (
                "its 91 classes are COCO's category numbers; MMDetection's datasets count 80: "
                "--coco80 keeps those"
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
        num_classes: what the file must have; None takes any number.
        coco80: cut 91 classes to COCO's 80 categories.
        classes: for training on other classes, see :func:`class_rows`.
        averaged: take the averaged weights (EMA) of a file that has both.
        **options: settings that the tensors do not tell, see :func:`release_settings`.

    Raises:
        ValueError: a file that cannot be read, another family's, another class count, or
            tensors that are too few, too many or of another shape.
    """
    if coco80 and classes is not None:
        raise ValueError("classes and coco80 exclude each other: classes knows COCO's 91 numbers")
    init_default_scope("mmdet")
    file = read_checkpoint(path, averaged)
    convention = check_family(file.state, family)
    shapes = {name: tuple(value.shape) for name, value in file.state.items()}
    try:
        settings = release_settings(family, shapes, file.args, options)
        found = settings["num_classes"].value
        if num_classes is not None and num_classes != found:
            raise ValueError(f"the heads have {found} classes, {num_classes} were asked for")
        values = {name: setting.value for name, setting in settings.items()}
        model = model_config(family, values, shapes)
    except (KeyError, StopIteration) as error:
        raise ValueError(
            f"{path} is a {family} model by its names, but lacks {error}: it is incomplete"
        ) from error
    conversion = convert(file.state, family, model)
    mapped = None if classes is None else class_rows(classes, found)
    first_stage = class_agnostic_first_stage(model)
    if coco80:
        conversion.state.update(coco_classes_only(conversion.state, first_stage))
        model["bbox_head"]["num_classes"] = 80
        _shorten(conversion, file, "11 rows of 91: numbers that no category of COCO has")
    elif mapped is not None:
        conversion.state.update(with_classes(conversion.state, mapped.rows, first_stage))
        model["bbox_head"]["num_classes"] = len(mapped.rows)
        kept = len({row for row in mapped.rows if row is not None})
        _shorten(conversion, file, f"{found - kept} rows of {found}: other classes were asked for")
    built = load_converted(model, conversion.state)
    # counters of frozen norms, which releases leave out, are the model's own
    own = built.state_dict()
    conversion.state.update({n: v for n, v in own.items() if n.endswith(COUNTERS)})
    nearest = matching_config(family, model, file.args).path.as_posix()
    with SkipInit():  # its settings are asked for, not its weights
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


def _shorten(conversion: Conversion, file: Checkpoint, why: str) -> None:
    """Note which of the file's tensors lost rows of classes."""
    for name in file.state:
        if ("class_embed" in name or "label_enc" in name) and name not in conversion.left_out:
            conversion.shortened[name] = why


def write_converted(converted: Converted, path: str | Path) -> Path | None:
    """Write the checkpoint and, where the package's config differs, a config beside it.

    Args:
        converted: see :func:`convert_file`.
        path: of the checkpoint.

    Returns:
        The written config, ready for ``mim test`` and ``mim train``: everything is in it,
        and it loads the checkpoint. None where the package's own does.
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
    """The nearest config with the released model's settings put in."""
    config = read_config(f"sparse_encoders::{converted.config}")
    model: dict[str, Any] = config.model.to_dict()
    released = copy.deepcopy(converted.model)
    for key, value in released.items():
        if key in _DECIDED or key not in model or not isinstance(value, Mapping):
            model[key] = value
    model["bbox_head"].update(
        type=released["bbox_head"]["type"], num_classes=released["bbox_head"]["num_classes"]
    )
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
