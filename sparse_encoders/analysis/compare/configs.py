"""Configs for each encoder of a comparison, made from one config."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config, ConfigDict

from sparse_encoders.analysis.variants import encoder_config, prunes
from sparse_encoders.datasets.coco_folder import innermost
from sparse_encoders.registry import DETECTORS

OURS = "sparse_encoders."
#: MMDetection's detectors that are replaced by ours
MMDET_TYPES = ("DINO", "DeformableDETR")
TRAIN_RATIO = 0.3


def use_our_detector(config: Config, name: str) -> str:
    """Make the config's detector one of ours, in place; returns its type.

    Raises:
        ValueError: a detector that takes no encoder of ours.
    """
    ours = [OURS + kind for kind in sorted(DETECTORS.module_dict)]
    kind = config.get("model", {}).get("type")
    kind = str(getattr(kind, "__name__", kind)).removeprefix("mmdet.")
    if kind in MMDET_TYPES:
        kind = OURS + kind
    if kind not in ours:
        raise ValueError(
            f"CONFIG: model.type of {name} is {kind!r}; compared are {', '.join(ours)}, and "
            f"MMDetection's {' and '.join(MMDET_TYPES)}"
        )
    config.model.type = kind
    names = (config.get("custom_imports") or {}).get("imports", [])
    names = [names] if isinstance(names, str) else names
    names = dict.fromkeys([*names, "sparse_encoders", "sparse_encoders.datasets"])
    config.custom_imports = dict(imports=list(names), allow_failed_imports=False)
    (config.model.get("test_cfg") or {}).pop("keep_ratio", None)  # the comparison sets it
    return kind


def with_encoder(
    config: Config,
    name: str,
    keep_ratio: float | None,
    options: Mapping[str, object],
) -> Config:
    """A copy with another encoder, all else as it is.

    Args:
        config: with one of our detectors.
        name: of the encoder.
        keep_ratio: in training; None: the config's, or 0.3.
        options: further settings of the encoder, KEY to value.

    Raises:
        ValueError: the encoder does not fit the config's number of layers.
    """
    config = copy.deepcopy(config)
    encoder = encoder_config(name, config.model.get("encoder") or {}, keep_ratio)
    if prunes(name):
        encoder["selector"].setdefault("keep_ratio", TRAIN_RATIO)
    config.model.encoder = ConfigDict(encoder)
    config.merge_from_dict({f"model.encoder.{key}": v for key, v in options.items()})
    return config


def for_training(config: Config, epochs: int, seed: int) -> Config:
    """A copy that trains so many epochs, its schedule stretched to them, and does not validate.

    Runs of one seed see the same images in the same order with the same augmentations, and
    resume exactly, whatever encoders draw (:class:`~sparse_encoders.hooks.SeedByStepHook`).

    Raises:
        ValueError: the config trains by iterations.
    """
    config = copy.deepcopy(config)
    if config.get("train_cfg", {}).get("max_epochs") is None:
        raise ValueError("--train counts epochs, but CONFIG has no train_cfg.max_epochs")
    stretch = epochs / config.train_cfg.max_epochs
    # the comparison evaluates by itself
    config.train_cfg.update(max_epochs=epochs, val_begin=epochs + 1, val_interval=epochs + 1)
    schedulers = config.get("param_scheduler") or []
    for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
        if scheduler.get("by_epoch", True):
            _stretch(scheduler, stretch)
    config.default_hooks = config.get("default_hooks") or ConfigDict()
    config.default_hooks.checkpoint = dict(type="CheckpointHook", interval=1, max_keep_ckpts=1)
    config.randomness = dict(seed=seed)
    config.train_dataloader.persistent_workers = False
    hooks = config.get("custom_hooks") or []
    if not any(hook.get("type") == "SeedByStepHook" for hook in hooks):
        config.custom_hooks = [*hooks, dict(type="SeedByStepHook")]
    return config


def _stretch(scheduler: Any, factor: float) -> None:
    for key in ("begin", "end", "T_max"):
        if scheduler.get(key) is not None:
            scheduler[key] = round(scheduler[key] * factor)
    if scheduler.get("end") is not None:
        scheduler["end"] = max(scheduler["end"], scheduler.get("begin", 0) + 1)
    if "milestones" in scheduler:
        scheduler["milestones"] = sorted({max(1, round(m * factor)) for m in scheduler.milestones})


def input_size(config: Config) -> tuple[int, int]:
    """(height, width) in pixels that the config's test pipeline fits landscape images into.

    Raises:
        ValueError: it resizes nothing.
    """
    data = innermost((config.get("test_dataloader") or {}).get("dataset", {}))
    for step in data.get("pipeline") or config.get("test_pipeline") or []:
        scale = step.get("scale")
        if scale is not None:
            sides = (scale, scale) if isinstance(scale, int) else tuple(scale)
            return min(sides), max(sides)
    raise ValueError("CONFIG resizes no test images: say --size HEIGHT WIDTH")


def listed_metrics(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The metrics of the config's test evaluator."""
    given = config.get("test_evaluator") or []
    return [dict(metric) for metric in (given if isinstance(given, list) else [given])]


def share_intervals(config: Config) -> None:
    """Give the encoder's selector the intervals of the config's ForegroundRecall.

    A config whose selector needs no intervals may have intervals for its images in
    ForegroundRecall; other selectors then use the same. Changes the config in place.
    """
    encoder = config.model.get("encoder")
    for metric in listed_metrics(config):
        if metric.get("type") == "ForegroundRecall" and encoder is not None:
            selector = encoder.setdefault("selector", ConfigDict())
            for key in ("intervals", "strides"):
                if metric.get(key) is not None:
                    selector.setdefault(key, metric[key])
