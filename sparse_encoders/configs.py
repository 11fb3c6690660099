"""Where the package's configs are, and their name ``sparse_encoders::dino/....py``.

The configs lie in the package's ``.mim`` folder, as OpenMMLab's do: in a wheel as files, in a
checkout as links to ``mmdet_configs``.
"""

from __future__ import annotations

import difflib
from pathlib import Path

SCOPE = "sparse_encoders"


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


def register_config_scope() -> None:
    """Let MMEngine resolve ``sparse_encoders::...``; runs when the package is imported.

    MMEngine knows the packages of OpenMMLab only, and looks a package's folder up by its
    distribution, which an editable installation has elsewhere. The name of this module is no
    distribution, so that its own file is asked for, which is right for every installation.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    MODULE2PACKAGE[SCOPE] = __name__
