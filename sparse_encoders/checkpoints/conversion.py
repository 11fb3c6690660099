"""Conversion of a released state dict to this package's names, with a record of every tensor."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from mmdet.models.backbones.swin import swin_converter
from mmdet.registry import MODELS
from torch import Tensor

from sparse_encoders.checkpoints.backbones import swin_prefix
from sparse_encoders.checkpoints.names import released_names, rename, used_name
from sparse_encoders.loading.detectors import COUNTERS, check_fit
from sparse_encoders.skip_init import SkipInit

LABELS = "dn_query_generator.label_embedding.weight"

# tensors of released files that are not part of the model, with the reason
_NOT_THE_MODEL = (
    (r"(.*\.)?total_(ops|params)$", "a counter of the tool that counted its operations"),
    (r"pixel_(mean|std)$", "set in the config of the data preprocessor"),
    (r"criterion\.", "part of the training loss, not of the model"),
    (rf".*\.{COUNTERS}$", "not used by frozen batch norms"),
    (r"backbone\.(0\.body\.)?fc\.", "the backbone's ImageNet classes"),
    (r"backbone\..*\.attn_mask$", "computed from the image's size"),
)
# released plain attention has the projections of key-aware attention, unused
_KEY_AWARE_ONLY = re.compile(r"(encoder|decoder)\.layers\.\d+\.\w+_attn\.(query|key)_proj\.")


@dataclass(frozen=True)
class Conversion:
    """A converted state dict.

    Attributes:
        state: tensors by this package's names.
        sources: released names by this package's names.
        left_out: reasons by released name, for tensors that are not in ``state``.
        shortened: what is missing by released name, for tensors of which ``state`` has a part.
    """

    state: dict[str, Tensor] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    shortened: dict[str, str] = field(default_factory=dict)


def convert(released: Mapping[str, Tensor], family: str, model: Mapping[str, Any]) -> Conversion:
    """A released state dict in this package's names.

    Args:
        released: tensors by the file's names.
        family: its family.
        model: its config, from :func:`sparse_encoders.checkpoints.released.model_config`.

    Raises:
        ValueError: tensors for which there is no rule, or a parameter with two names and
            different values.
    """
    done = Conversion()
    stage = model["decoder"]["num_layers"]
    outputs, levels = len(model["neck"]["in_channels"]), model["num_feature_levels"]
    rules = released_names(family, stage, outputs, levels)
    kept = _without_second_names(released, stage, done.left_out)
    swin = swin_prefix(kept)
    unknown = []
    for name, value in kept.items():
        if swin is not None and name.startswith(swin):
            renamed = swin_converter(OrderedDict({name.removeprefix(swin): value}))
        else:
            renamed = rename({name: value}, rules)
        done.state.update(renamed)
        done.sources.update(dict.fromkeys(renamed, name))
        if not renamed:
            unknown.append(name)
    if unknown:
        raise ValueError(
            f"{len(unknown)} tensors have names that are not known for a {family} model, such as "
            f"{', '.join(unknown[:8])}; nothing was converted"
        )
    _fit(done, model)
    return done


def _without_second_names(
    released: Mapping[str, Tensor], stage: int, left_out: dict[str, str]
) -> dict[str, Tensor]:
    """The model's tensors by the names that are converted; equal copies are left out."""
    kept: dict[str, Tensor] = {}
    for name, value in released.items():
        reason = next((why for rule, why in _NOT_THE_MODEL if re.match(rule, name)), None)
        if reason is not None:
            left_out[name] = reason
            continue
        used = used_name(name, stage)
        if used != name:
            left_out[name] = f"a second name of {used}"
        twin = kept.setdefault(used, value)
        if twin is not value and not (twin.shape == value.shape and torch.equal(twin, value)):
            raise ValueError(
                f"{name} and {used} are one parameter in the released model, but have different "
                "values in the file: it was changed, or saved by other code"
            )
    return kept


def _fit(done: Conversion, model: Mapping[str, Any]) -> None:
    """Convert tensors whose shape differs in this package."""
    classes = model["bbox_head"]["num_classes"]
    if LABELS in done.state:
        rows = done.state[LABELS].shape[0]
        if rows < classes:
            raise ValueError(
                f"{done.sources[LABELS]} has {rows} rows for {classes} classes: "
                "the numbers of classes in the file do not fit each other"
            )
        if rows > classes:
            done.state[LABELS] = done.state[LABELS][:classes]
            done.shortened[done.sources[LABELS]] = (
                f"rows {classes} to {rows - 1}: not used by any class"
            )
    plain = {
        "encoder": model["encoder"].get("attention", "plain") == "plain",
        "decoder": model.get("decoder_attention", "plain") == "plain",
    }
    for name in list(done.state):
        match = _KEY_AWARE_ONLY.match(name)
        if match and plain[match[1]]:
            del done.state[name]
            done.left_out[done.sources.pop(name)] = "plain attention does not use it"
        elif ".sampling_offsets." in name and plain[name.split(".", 1)[0]]:
            done.state[name] = one_set_per_level(done.state[name], model["num_feature_levels"])


def one_set_per_level(offsets: Tensor, levels: int, heads: int = 8, points: int = 4) -> Tensor:
    """Sampling offsets of plain attention with one set for each level.

    Released plain attention may share its offsets between the levels; here each level has a
    set, and shared offsets are repeated.

    Args:
        offsets: (heads * points * 2, ...) or (heads * levels * points * 2, ...).
        levels: feature levels.
        heads: attention heads.
        points: sampling points.
    """
    if offsets.shape[0] == heads * levels * points * 2:
        return offsets
    sets = offsets.unflatten(0, (heads, 1, points, 2))
    return sets.expand(-1, levels, *sets.shape[2:]).flatten(0, 3)


def load_converted(model_config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Any:
    """A detector with the weights of ``state``, in eval mode.

    Raises:
        ValueError: a missing tensor, an additional one, or one of another shape.
    """
    with SkipInit():  # all weights are loaded below
        model: Any = MODELS.build(dict(model_config))
    check_fit(model, state, "what the released file holds")
    model.load_state_dict(state, strict=False)
    return model.eval()
