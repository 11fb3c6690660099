"""A trained detector from its config and checkpoint, ready to be looked into."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

from mmengine.config import Config

from sparse_encoders.datasets.coco_folder import apply_coco_folder


def load_detector(config: str | Path, checkpoint: str | Path, device: str = "cpu") -> Any:
    """Build a detector and load its weights, read weights-only.

    Args:
        config: its config; where that names a ``coco_folder``, the checkpoint's
            classes are what counts, and the folder need not exist.
        checkpoint: its weights, as MMEngine's runner saves them.
        device: such as 'cpu' or 'cuda:0'.

    Returns:
        MMDetection's detector in evaluation mode.

    Raises:
        ValueError: a file is missing, is truncated, or belongs to another model.
    """
    from mmdet.apis import init_detector
    from mmengine.runner.checkpoint import _load_checkpoint

    for name, path in (("config", config), ("checkpoint", checkpoint)):
        if not Path(path).is_file():
            raise ValueError(f"{name}: there is no file {path}")
    cfg = Config.fromfile(str(config))
    try:
        saved = _load_checkpoint(str(checkpoint), map_location="cpu")
        weights = saved.get("state_dict", saved)
    except (RuntimeError, EOFError, OSError, AttributeError, pickle.UnpicklingError) as error:
        raise ValueError(f"checkpoint {checkpoint} cannot be read (truncated?): {error}") from error
    classes = (saved.get("meta", {}).get("dataset_meta") or {}).get("classes")
    if classes is not None:
        cfg.model.bbox_head.num_classes = len(classes)
    elif "coco_folder" in cfg:
        apply_coco_folder(cfg)
    _check_fit(cfg, weights, checkpoint)
    return init_detector(cfg, str(checkpoint), device=device, palette="random")


def _check_fit(cfg: Config, weights: dict[str, Any], checkpoint: str | Path) -> None:
    """Raise where the config's model and the weights have not the same names and shapes."""
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
