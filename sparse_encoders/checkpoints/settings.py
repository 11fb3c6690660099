"""Settings of a released model that do not follow from its tensors, such as keep ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparse_encoders.checkpoints.backbones import Shapes
from sparse_encoders.checkpoints.released import count_layers, learned_queries, released_classes
from sparse_encoders.encoders.schedule import InterleavedSchedule
from sparse_encoders.selectors.keep import KeepSchedule

TENSORS, FILE, RELEASE, ASKED = "its tensors", "its args", "the release's default", "the options"


@dataclass(frozen=True)
class Setting:
    """A setting of a released model.

    Attributes:
        value: its value.
        source: where the value comes from.
    """

    value: Any
    source: str


_DINO = dict(position_temperature=20, position_offset=0.0, max_per_img=300)
_DEFORMABLE = dict(position_temperature=10000, position_offset=-0.5, max_per_img=300)
DEFAULTS: dict[str, dict[str, Any]] = {
    "dino": _DINO,
    "focus_dino": dict(
        _DINO, keep_ratio=0.5, cascade=[1.0, 0.8, 0.6, 0.6, 0.4, 0.2], topk_self_attention=300
    ),
    "lite_dino": dict(_DINO, blocks=3, high_levels=3),
    "dn_deformable_detr": _DEFORMABLE,
    "h_deformable_detr": _DEFORMABLE,
    "sparse_deformable_detr": dict(_DEFORMABLE, max_per_img=100, keep_ratio=0.3, num_queries=300),
}
"""Defaults of the released code, for settings that are not in its files."""

_DINO_ARGS = dict(pe_temperatureH="position_temperature", num_select="max_per_img")
ARGS: dict[str, dict[str, str]] = {
    "dino": _DINO_ARGS,
    "lite_dino": dict(_DINO_ARGS, num_expansion="blocks", enc_scale="high_levels"),
    "dn_deformable_detr": dict(num_select="max_per_img"),
    "h_deformable_detr": dict(num_queries_one2one="num_queries", topk="max_per_img"),
    "sparse_deformable_detr": dict(
        rho="keep_ratio",
        num_queries="num_queries",
        eff_specific_head="class_specific_first_stage",
    ),
}
"""Names of the settings in the ``args`` of files of the official convention."""

# number of H-DETR's one-to-many queries; its files have them in one tensor with the others
_ONE_TO_MANY = 1500


def release_settings(
    family: str,
    shapes: Shapes,
    args: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Setting]:
    """All settings that :func:`model_config` takes, with their sources.

    Args:
        family: the file's family.
        shapes: shapes by released name.
        args: settings of the training in the file.
        options: settings of the caller; None: not set. ``schedule`` is a name
            such as 'H3L1-(2+1)x3', the others are those of :func:`model_config`.

    Raises:
        ValueError: an option that the family does not have, or that contradicts the tensors.
    """
    args, options = args or {}, options or {}
    settings = {name: Setting(value, RELEASE) for name, value in DEFAULTS[family].items()}
    for theirs, ours in ARGS.get(family, {}).items():
        if args.get(theirs) is not None:
            settings[ours] = Setting(args[theirs], FILE)
    settings |= _from_tensors(family, shapes, settings)
    given = {name: value for name, value in options.items() if value is not None}
    if "schedule" in given and family == "lite_dino":
        levels = next(s[0] for n, s in shapes.items() if "level_embed" in n)
        named = InterleavedSchedule.from_name(given.pop("schedule"), levels)
        given |= dict(blocks=named.blocks, high_levels=named.high_levels)
    for name, value in given.items():
        if name not in settings:
            raise ValueError(f"{name} is not a setting of {family}; accepted: {sorted(settings)}")
        old = settings[name]
        if old.source == TENSORS and old.value != value:
            raise ValueError(f"{name} is {old.value} by the file's tensors, got {value}")
        settings[name] = Setting(value, ASKED)
    if family == "focus_dino" and "keep_ratio" in given:
        # an average, or a ratio for each layer
        ratios = given["keep_ratio"]
        if isinstance(ratios, Sequence) and len(ratios) == 1:
            ratios = ratios[0]
        schedule = KeepSchedule.from_config(ratios, count_layers(shapes, "encoder"), cascade=True)
        settings["keep_ratio"] = Setting(schedule.ratio, ASKED)
        settings["cascade"] = Setting(list(schedule.factors), ASKED)
    return settings


def _from_tensors(
    family: str, shapes: Shapes, settings: Mapping[str, Setting]
) -> dict[str, Setting]:
    """Settings that follow from the shapes."""
    derived = {"num_classes": Setting(released_classes(shapes), TENSORS)}
    learned = learned_queries(shapes)
    if family == "h_deformable_detr":
        if "num_queries" not in settings:
            assert learned is not None
            one_to_one = learned - _ONE_TO_MANY if learned > _ONE_TO_MANY else learned // 2
            derived["num_queries"] = Setting(one_to_one, RELEASE)
    elif learned is not None:
        derived["num_queries"] = Setting(learned, TENSORS)
    # the last layer of each of Lite DETR's blocks has an FFN of its own for the low levels
    if blocks := sum(name.endswith(".linear12.weight") for name in shapes):
        derived["blocks"] = Setting(blocks, TENSORS)
    return derived
