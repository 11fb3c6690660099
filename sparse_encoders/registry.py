"""Where the package's parts are registered.

Encoders, selectors, attention modules and backbones go plainly into
MMDetection's ``MODELS`` (their names are our own). Detectors share their names
with MMDetection's, so they live in a child registry with a scope of its own and
are written ``sparse_encoders.DINO`` in a config: importing the package changes
nothing for configs that do not ask for it.
"""

from typing import TypeVar

from mmdet.registry import MODELS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import Registry

DETECTORS = Registry("model", parent=ROOT_MODELS, scope="sparse_encoders")

__all__ = ["DETECTORS", "MODELS", "lookup"]

T = TypeVar("T")


def lookup(name: object, base: type[T], setting: str) -> type[T]:
    """The registered subclass of ``base`` that a config names.

    Args:
        name: what the config says, a name or the class itself.
        base: what it must be.
        setting: the config's key, for the error.

    Raises:
        ValueError: nothing of that name is a ``base``; lists what is.
    """
    found = MODELS.get(name) if isinstance(name, str) else name
    if isinstance(found, type) and issubclass(found, base):
        return found
    known = sorted(
        key
        for key, value in MODELS.module_dict.items()
        if isinstance(value, type) and issubclass(value, base)
    )
    raise ValueError(f"{setting} must be one of {known}, got {name!r}")
