"""Where the package's configs are found, and by which names.

The configs lie in the package's ``.mim`` folder, as OpenMMLab's do: in a wheel as files, in a
checkout as links to ``mmdet_configs``. Importing the package makes MMEngine know them as
``sparse_encoders::dino/....py``. ``publish`` makes them known also where nothing has imported the
package yet, as in ``mim train mmdet CONFIG``.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import runpy
import shutil
import sysconfig
from pathlib import Path

SCOPE = "sparse_encoders"
_HOOK = "sparse_encoders_scope"


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
            f"there is no config {name!r} in {folder}"
            + (f"; near: {', '.join(near)}" if near else "")
        )
    return str(found)


def register_config_scope() -> None:
    """Let MMEngine resolve ``sparse_encoders::...``; runs when the package is imported.

    MMEngine knows the packages of OpenMMLab only, and looks a package's folder up by its
    distribution, which an editable installation has elsewhere. The name of this module is no
    distribution, so that its own file is asked for, which is right for every installation.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    MODULE2PACKAGE.setdefault(SCOPE, __name__)


def publish(mmdet_folder: Path | None = None, site_packages: Path | None = None) -> list[Path]:
    """Make the configs known to commands that do not import this package.

    * A link ``sparse_encoders`` among MMDetection's configs: ``mim train mmdet NAME.py`` finds
      them by file name, and ``_base_ = 'mmdet::sparse_encoders/dino/NAME.py'`` inherits them.
    * A start-up file in site-packages: ``_base_ = 'sparse_encoders::dino/NAME.py'`` works in every
      process. It waits for MMEngine's import, and does nothing in processes without it.

    Doing it again refreshes both; ``unpublish`` removes them.

    Args:
        mmdet_folder: of the installed ``mmdet``; None finds it.
        site_packages: where start-up files go; None is this Python's.

    Returns:
        What was written.

    Raises:
        FileNotFoundError: no MMDetection, or one without its configs.
        FileExistsError: something else lies in the link's place.
    """
    unpublish(mmdet_folder, site_packages)
    link, hook, start = _places(mmdet_folder, site_packages)
    if link.exists():
        raise FileExistsError(f"{link} is not a link that publish made: move it away first")
    try:
        link.symlink_to(configs_folder(), target_is_directory=True)
    except OSError:  # a file system without links
        shutil.copytree(configs_folder(), link)
        (link / ".published").touch()
    shutil.copyfile(Path(__file__).with_name("_startup.py"), hook)
    start.write_text(f"import {_HOOK}\n")
    return [link, hook, start]


def unpublish(mmdet_folder: Path | None = None, site_packages: Path | None = None) -> list[Path]:
    """Take back what ``publish`` did; arguments as there. Returns what was removed."""
    link, *files = _places(mmdet_folder, site_packages)
    removed = [path for path in files if path.exists()]
    if link.is_symlink():
        removed.append(link)
    elif (link / ".published").is_file():
        shutil.rmtree(link)
        return [*removed, link]
    for path in removed:
        path.unlink()
    return removed


def _places(mmdet_folder: Path | None, site_packages: Path | None) -> tuple[Path, Path, Path]:
    """Link, module and start-up file."""
    if mmdet_folder is None:
        spec = importlib.util.find_spec("mmdet")
        if spec is None or spec.origin is None:
            raise FileNotFoundError("MMDetection is not installed: there is nowhere to publish to")
        mmdet_folder = Path(spec.origin).parent
    configs = mmdet_folder / ".mim" / "configs"
    if not configs.is_dir():
        raise FileNotFoundError(f"MMDetection's configs are not at {configs}")
    site = site_packages or Path(sysconfig.get_path("purelib"))
    return configs / SCOPE, site / f"{_HOOK}.py", site / f"{_HOOK}.pth"


def run_mmdet_tool(name: str) -> None:
    """Run MMDetection's ``train`` or ``test`` script in this process, arguments as given to it.

    Raises:
        FileNotFoundError: MMDetection has no such script.
    """
    mmdet = importlib.import_module("mmdet")
    script = Path(str(mmdet.__file__)).parent / ".mim" / "tools" / f"{name}.py"
    if not script.is_file():
        raise FileNotFoundError(f"MMDetection has no script {script}")
    runpy.run_path(str(script), run_name="__main__")
