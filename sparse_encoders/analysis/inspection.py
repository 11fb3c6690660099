"""A trained detector from its config and checkpoint, ready to be looked into."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

from mmengine.config import Config

from sparse_encoders.datasets.coco_folder import apply_coco_folder, apply_scale


def load_detector(config: str | Path | Config, checkpoint: str | Path, device: str = "cpu") -> Any:
    """Build a detector and load its weights, read weights-only.

    Args:
        config: its config or the file of it; where that names a ``coco_folder``, the
            checkpoint's classes are what counts, and the folder need not exist; images are resized
            as it says.
        checkpoint: its weights, as MMEngine's runner saves them.
        device: such as 'cpu' or 'cuda:0'.

    Returns:
        MMDetection's detector in evaluation mode.

    Raises:
        ValueError: a file is missing, is truncated, or belongs to another model.
    """
    from mmdet.apis import init_detector

    if isinstance(config, Config):
        cfg = copy.deepcopy(config)
    elif Path(config).is_file():
        cfg = Config.fromfile(str(config))
    else:
        raise ValueError(f"config: there is no file {config}")
    weights, classes = read_checkpoint(checkpoint)
    if classes is not None:
        cfg.model.bbox_head.num_classes = len(classes)
        if "coco_folder" in cfg:
            apply_scale(cfg)
    elif "coco_folder" in cfg:
        apply_coco_folder(cfg)
    check_fit(cfg, weights, checkpoint)
    return init_detector(cfg, str(checkpoint), device=device, palette="random")


def read_checkpoint(checkpoint: str | Path) -> tuple[dict[str, Any], tuple[str, ...] | None]:
    """The weights in a checkpoint, and the classes it was trained on, where it says.

    Raises:
        ValueError: there is no such file, or it is truncated or no checkpoint.
    """
    from mmengine.runner.checkpoint import _load_checkpoint

    if not Path(checkpoint).is_file():
        raise ValueError(f"checkpoint: there is no file {checkpoint}")
    try:
        saved = _load_checkpoint(str(checkpoint), map_location="cpu")
        weights = saved.get("state_dict", saved)
    except (RuntimeError, EOFError, OSError, AttributeError, pickle.UnpicklingError) as error:
        raise ValueError(f"checkpoint {checkpoint} cannot be read (truncated?): {error}") from error
    classes = (saved.get("meta", {}).get("dataset_meta") or {}).get("classes")
    return weights, None if classes is None else tuple(classes)


def check_fit(cfg: Config, weights: dict[str, Any], checkpoint: str | Path) -> None:
    """Compare the names and shapes of a config's model and of weights.

    Raises:
        ValueError: they differ; ``checkpoint`` is the file that the message names.
    """
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    wanted = {
        name: tuple(v.shape)
        for name, v in MODELS.build(copy.deepcopy(cfg.model)).state_dict().items()
    }
    missing = sorted(wanted.keys() - weights.keys())
    other = sorted(weights.keys() - wanted.keys())
    shapes = [n for n in wanted.keys() & weights.keys() if tuple(weights[n].shape) != wanted[n]]
    if missing or other or shapes:
        raise ValueError(
            f"checkpoint {checkpoint} belongs to another model: it lacks {len(missing)} values "
            f"{missing[:2]}, has {len(other)} that the config's model has not {other[:2]}, and "
            f"{len(shapes)} of another shape {shapes[:2]}"
        )
