"""Where the package's configs are, and their name ``sparse_encoders::dino/....py``.

The configs lie in the package's ``.mim`` folder, as OpenMMLab's do: in a wheel as files, in a
checkout as links to ``mmdet_configs``.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

SCOPE = "sparse_encoders"
_COCO_NAME = re.compile(
    r"(?P<detector>[^_]+)_(?P<backbone>[^_]+)_(?P<encoder>[^_]+)_\d+xb\d+-(?P<epochs>\d+)e_coco"
)


@dataclass(frozen=True)
class CocoConfig:
    """A config for COCO, by its name: dino-4scale_r50_focus-k10_8xb2-36e_coco.

    Attributes:
        path: below the folder of the configs.
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
        FileNotFoundError: an installation without its configs.
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
        ValueError: there is no such config; names near ones.
    """
    folder = configs_folder()
    wanted = name.removeprefix(f"{SCOPE}::").removesuffix(".py")
    there = {p.relative_to(folder).with_suffix("").as_posix(): p for p in folder.rglob("*.py")}
    short = {p.stem: p for relative, p in there.items() if not relative.startswith("_base_")}
    found = there.get(wanted) or short.get(wanted)
    if found is None:
        near = difflib.get_close_matches(wanted, [*there, *short], 3)
        raise ValueError(
            f"there is no config file {name}, nor one of that name in {folder}"
            + (f"; near: {', '.join(near)}" if near else "")
            + "; MMDetection's are named mmdet::dino/..."
        )
    return str(found)


def coco_configs() -> list[CocoConfig]:
    """All configs for COCO, sorted by path."""
    found = []
    for path in sorted(configs_folder().glob("*/*_coco.py")):
        if match := _COCO_NAME.fullmatch(path.stem):
            below = path.relative_to(configs_folder())
            words = match["detector"], match["backbone"], match["encoder"]
            found.append(CocoConfig(below, *words, int(match["epochs"])))
    return found


def register_config_scope() -> None:
    """Let MMEngine resolve ``sparse_encoders::...``; runs when the package is imported.

    MMEngine knows the packages of OpenMMLab only, and looks a package's folder up by its
    distribution, which an editable installation has elsewhere. The name of this module is no
    distribution, so that its own file is asked for, which is right for every installation.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    MODULE2PACKAGE[SCOPE] = __name__
