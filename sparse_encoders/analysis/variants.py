"""The encoders that comparisons know by a short name."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

# Short name to what ``model.encoder`` gets besides the detector's own layer settings.
VARIANTS: dict[str, dict[str, Any]] = {
    "dense": dict(type="DenseEncoder"),
    "focus": dict(type="DualAttentionEncoder", selector=dict(type="FocusTokenSelector")),
}


def encoder_config(
    name: str, base: Mapping[str, Any], keep_ratio: float | None = None
) -> dict[str, Any]:
    """A detector's encoder config with another encoder in its place.

    Args:
        name: a key of :data:`VARIANTS`.
        base: the detector's encoder config; layers and widths are kept.
        keep_ratio: for encoders that prune.

    Raises:
        ValueError: an unknown name.
    """
    if name not in VARIANTS:
        raise ValueError(f"encoder must be one of {sorted(VARIANTS)}, got {name!r}")
    config = {k: copy.deepcopy(base[k]) for k in ("num_layers", "layer_cfg") if k in base}
    config.update(copy.deepcopy(VARIANTS[name]))
    if keep_ratio is not None and "selector" in config:
        config["selector"]["keep_ratio"] = keep_ratio
    return config
