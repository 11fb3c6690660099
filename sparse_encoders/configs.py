"""Paths of the package's configs, and their names ``sparse_encoders::dino/....py``.

As in OpenMMLab's packages, the configs are in the package's ``.mim`` folder: as files in a wheel,
as links to ``mmdet_configs`` in a checkout. Importing this module lets MMEngine resolve the names.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from mmengine.config.utils import MODULE2PACKAGE

SCOPE = "sparse_encoders"
_COCO_NAME = re.compile(r"([^_]+)_([^_]+)_([^_]+)_\d+xb\d+-(\d+)e_coco")
# MMEngine resolves "sparse_encoders::..." by its table of packages, and finds a package's folder
# through its distribution, which is in another folder for an editable installation. This module's
# name is no distribution, so MMEngine uses the module's own file, right for every installation.
MODULE2PACKAGE[SCOPE] = __name__


@dataclass(frozen=True)
class CocoConfig:
    """A config for COCO, parsed from its name, such as dino-4scale_r50_focus-k10_8xb2-36e_coco.

    Attributes:
        path: relative to the folder of the configs.
        detector: first word, such as 'dino-4scale'.
        backbone: second word, such as 'r50'.
        encoder: third word, such as 'focus-k10'.
        epochs: length of its schedule.
    """

    path: Path
    detector: str
    backbone: str
    encoder: str
    epochs: int


def configs_folder() -> Path:
    """Folder of the configs, with one folder for each detector.

    Raises:
        FileNotFoundError: the configs are not installed.
    """
    folder = Path(__file__).parent / ".mim" / "configs"
    if not folder.is_dir():
        raise FileNotFoundError(f"the configs of sparse_encoders are not at {folder}: reinstall it")
    return folder.resolve()


def config_path(name: str) -> str:
    """Path of a config, for ``Config.fromfile`` or a config's ``_base_``.

    Args:
        name: as in the tables, with or without folder and suffix:
            'dino/dino-4scale_r50_focus_8xb2-12e_coco.py'.

    Raises:
        ValueError: there is no such config; the message has similar names.
    """
    folder = configs_folder()
    wanted = name.removeprefix(f"{SCOPE}::").removesuffix(".py")
    by_path = {p.relative_to(folder).with_suffix("").as_posix(): p for p in folder.rglob("*.py")}
    by_stem = {p.stem: p for relative, p in by_path.items() if not relative.startswith("_base_")}
    path = by_path.get(wanted) or by_stem.get(wanted)
    if path is None:
        near = difflib.get_close_matches(wanted, [*by_path, *by_stem], 3)
        raise ValueError(
            f"there is no config file {name}, nor one of that name in {folder}"
            + (f"; similar: {', '.join(near)}" if near else "")
            + "; MMDetection's are named mmdet::dino/..."
        )
    return str(path)


def coco_configs() -> list[CocoConfig]:
    """All configs for COCO, sorted by path."""
    folder, configs = configs_folder(), []
    for path in sorted(folder.glob("*/*_coco.py")):
        if match := _COCO_NAME.fullmatch(path.stem):
            detector, backbone, encoder, epochs = match.groups()
            name = path.relative_to(folder)
            configs.append(CocoConfig(name, detector, backbone, encoder, int(epochs)))
    return configs
