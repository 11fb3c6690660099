"""Where the package's parts are registered.

Encoders, selectors, attention modules and backbones go plainly into
MMDetection's ``MODELS`` (their names are our own). Detectors share their names
with MMDetection's, so they live in a child registry with a scope of its own and
are written ``sparse_encoders.DINO`` in a config: importing the package changes
nothing for configs that do not ask for it.
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
# MMEngine looks up what a config inherits from 'sparse_encoders::...' in this scope: give it one
# in every registry of MMDetection's, where an unknown name falls back to MMDetection's own.
SCOPES = [
    # the parent's own are not imported when a name is looked up from here
    Registry(
        registry.name, parent=registry, scope="sparse_encoders", locations=[*registry._locations]
    )
    for registry in vars(mmdet_registry).values()
    if isinstance(registry, Registry) and registry is not MODELS
]

__all__ = ["DETECTORS", "MODELS", "build_swappable", "lookup"]

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
    kind = MODELS.get(name) if isinstance(name, str) else name
    if isinstance(kind, type) and issubclass(kind, base):
        return kind
    raise ValueError(f"{setting} must be one of {sorted(_kinds(base))}, got {name!r}")


def build_swappable(
    config: Mapping[str, Any], base: type[T], setting: str, ours: Mapping[str, Any] | None = None
) -> T:
    """Build one of several exchangeable parts from config.

    Changing ``type`` alone must exchange it, also in a config that inherits what
    another part was set to: settings that only other parts have are left out,
    and the log says so.

    Args:
        config: with its ``type``.
        base: what it must be.
        setting: the config's key, for messages.
        ours: defaults that the caller knows; ``config`` goes before them.

    Raises:
        ValueError: an unknown type, or a setting that no part has.
    """
    kind = lookup(config.get("type"), base, f"{setting}.type")
    accepted = _settings(kind)
    used = {k: v for k, v in (ours or {}).items() if k in accepted}
    for key, value in config.items():
        if key in accepted or key == "type":
            used[key] = value
            continue
        if key == "_scope_":  # MMEngine's note of where a config was inherited from
            continue
        owners = sorted(n for n, other in _kinds(base).items() if key in _settings(other))
        if not owners:
            raise ValueError(
                f"{setting}.{key} is no setting of {kind.__name__}; accepted: {sorted(accepted)}"
            )
        print_log(
            f"{setting}.{key} belongs to {', '.join(owners)}: {kind.__name__} ignores it",
            "current",
            level=30,
        )
    built: T = MODELS.build(used)
    return built


def _kinds(base: type[T]) -> dict[str, type[T]]:
    """Registered name to class, of all kinds of ``base``."""
    return {
        name: kind
        for name, kind in MODELS.module_dict.items()
        if isinstance(kind, type) and issubclass(kind, base)
    }


def _settings(kind: type) -> set[str]:
    """Names of the constructor's arguments, of the parents' too where it passes them on."""
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
