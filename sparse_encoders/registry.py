"""Registries of the package's parts.

Encoders, selectors, attention modules and backbones are registered in
MMDetection's ``MODELS``, under names that MMDetection does not have. Detectors have the names of
MMDetection's, so they are in a child registry with the scope ``sparse_encoders`` and
are written ``sparse_encoders.DINO`` in a config. Importing the package changes
nothing for configs that do not name its parts.
"""

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from mmdet import registry as mmdet_registry
from mmdet.registry import MODELS
from mmengine.logging import print_log
from mmengine.registry import Registry

DETECTORS = Registry(
    "model", parent=MODELS, scope="sparse_encoders", locations=["sparse_encoders.detectors"]
)
# MMEngine looks up the types of a config that inherits from 'sparse_encoders::...' in this scope.
# So each of MMDetection's registries gets a child of that scope, where unknown names fall back to
# MMDetection's own.
SCOPES = [
    # a lookup from here does not import the parent's locations
    Registry(
        registry.name, parent=registry, scope="sparse_encoders", locations=[*registry._locations]
    )
    for registry in vars(mmdet_registry).values()
    if isinstance(registry, Registry) and registry is not MODELS
]

__all__ = ["DETECTORS", "MODELS", "build_swappable"]

T = TypeVar("T")


def build_swappable(
    config: Mapping[str, Any], base: type[T], setting: str, ours: Mapping[str, Any] | None = None
) -> T:
    """Build one of several exchangeable parts from its config.

    It is enough to change ``type`` in a config to exchange the part, even if the config inherits
    settings of another part: settings that only other parts have are ignored with a warning in the
    log.

    Args:
        config: with its ``type``.
        base: class that the part must be derived from.
        setting: the config's key, for messages.
        ours: defaults of the caller, for settings that are not in ``config``.

    Raises:
        ValueError: an unknown type, or a setting that no part has.
    """
    name = config.get("type")
    kind = MODELS.get(name) if isinstance(name, str) else name
    if not (isinstance(kind, type) and issubclass(kind, base)):
        known = sorted(_kinds(base))
        raise ValueError(f"{setting}.type must be one of {known}, got {name!r}")
    accepted = _settings(kind)
    used = {k: v for k, v in (ours or {}).items() if k in accepted}
    for key, value in config.items():
        if key in accepted or key == "type":
            used[key] = value
            continue
        if key == "_scope_":  # added by MMEngine: the package that a config was inherited from
            continue
        owners = sorted(n for n, other in _kinds(base).items() if key in _settings(other))
        if not owners:
            raise ValueError(
                f"{setting}.{key} is not a setting of {kind.__name__}; accepted: {sorted(accepted)}"
            )
        print_log(
            f"{setting}.{key} belongs to {', '.join(owners)}: {kind.__name__} ignores it",
            "current",
            level=30,
        )
    built: T = MODELS.build(used)
    return built


def _kinds(base: type[T]) -> dict[str, type[T]]:
    """Registered classes derived from ``base``, by name."""
    return {
        name: kind
        for name, kind in MODELS.module_dict.items()
        if isinstance(kind, type) and issubclass(kind, base)
    }


def _settings(kind: type) -> set[str]:
    """Names of the constructor's arguments, and of the parents' if it has ``**kwargs``."""
    names: set[str] = set()
    for parent in kind.__mro__:
        if "__init__" not in vars(parent):
            continue
        parameters = list(inspect.signature(vars(parent)["__init__"]).parameters.values())[1:]
        variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        names.update(p.name for p in parameters if p.kind not in variable)
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    return names
