"""Configs by file, by name, or as objects."""

from __future__ import annotations

import copy
from importlib.resources import files
from pathlib import Path

from mmengine.config import Config

from sparse_encoders.configs import config_path

MMDET = "mmdet::"


def find_config(name: str | Path) -> Path:
    """The file of a config.

    Args:
        name: a file; a name of this package's configs, such as
            ``sparse_encoders::dino/dino-4scale_r50_focus_8xb2-12e_coco.py``, of which the file's
            name alone is enough; or one of MMDetection's, ``mmdet::dino/...``.

    Raises:
        ValueError: there is no such config; the message has similar names.
    """
    path = Path(name)
    if str(name).startswith(MMDET):
        path = Path(str(files("mmdet"))) / ".mim" / "configs" / str(name).removeprefix(MMDET)
    elif not path.is_file():
        path = Path(config_path(str(name)))
    if not path.is_file():
        raise ValueError(f"there is no config file {path}")
    return path


def read_config(config: str | Path | Config) -> Config:
    """Read a config.

    Args:
        config: as in :func:`find_config`; or a config, which is copied.

    Returns:
        A config that the caller may change.

    Raises:
        ValueError: there is no such config, or it cannot be read.
    """
    if isinstance(config, Config):
        return copy.deepcopy(config)
    path = find_config(config)
    try:
        return Config.fromfile(str(path))
    except Exception as error:  # a config is a program: it may raise anything
        raise ValueError(f"config {config} cannot be read: {error!r}") from error
