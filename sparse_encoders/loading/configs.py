"""One way to a config: by file, by name, or as it was read."""

from __future__ import annotations

import copy
from importlib.resources import files
from pathlib import Path

from mmengine.config import Config

from sparse_encoders.publishing import SCOPE, config_path

MMDET = "mmdet::"


def read_config(config: str | Path | Config) -> Config:
    """Read a config.

    Args:
        config: a file; a name of this package's (``sparse_encoders::dino/...``) or of
            MMDetection's (``mmdet::dino/...``) configs; or a config, which is copied.

    Returns:
        One that the caller may change.

    Raises:
        ValueError: there is no such config, or it cannot be read; names near names of this
            package's.
    """
    if isinstance(config, Config):
        return copy.deepcopy(config)
    name = str(config)
    path = Path(name)
    if name.startswith(f"{SCOPE}::"):
        path = Path(config_path(name))
    elif name.startswith(MMDET):
        path = Path(str(files("mmdet"))) / ".mim" / "configs" / name.removeprefix(MMDET)
    if not path.is_file():
        raise ValueError(
            f"there is no config file {name}: give a file, a name of this package's as "
            f"{SCOPE}::dino/..., or one of MMDetection's as "
            f"{MMDET}dino/dino-4scale_r50_8xb2-12e_coco.py"
        )
    try:
        return Config.fromfile(str(path))
    except Exception as error:  # a config is a program: it may raise anything
        raise ValueError(f"config {name} cannot be read: {error!r}") from error
