"""Detectors from config files, for counting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmdet.models.detectors.base_detr import DetectionTransformer
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

import sparse_encoders  # noqa: F401  (registers the package)
from sparse_encoders.loading import read_config


def model_of_config(
    config: str | Path | Config, overrides: dict[str, Any] | None = None
) -> nn.Module:
    """The detector of a config, with random weights, in evaluation mode.

    Nothing is loaded: neither backbone weights nor a data set.

    Args:
        config: a file, a published name (``sparse_encoders::...``, ``mmdet::...``), or what was
            read from one.
        overrides: settings to change, such as ``{'model.num_queries': 300}``.

    Raises:
        ValueError: there is no such file, it cannot be read, holds no model, an unknown one, one
            that is no DETR detector, or one whose settings do not fit each other.
    """
    where = "the config" if isinstance(config, Config) else str(config)
    settings = read_config(config)
    settings.merge_from_dict(overrides or {})
    if "model" not in settings:
        raise ValueError(f"{where} has no model; give the config of a detector")
    init_default_scope("mmdet")
    if "weights" in settings.model.get("backbone", {}):
        settings.model.backbone.weights = None
    try:
        model = MODELS.build(settings.model)
    except KeyError as error:
        raise ValueError(f"{where}: {error.args[0] if error.args else error}") from error
    if not isinstance(model, DetectionTransformer):
        raise ValueError(
            f"{where} describes a {type(model).__name__}, which is not a DETR detector; "
            "multiply-adds are counted by encoder and decoder"
        )
    return model.eval()
