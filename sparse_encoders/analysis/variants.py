"""The encoders that comparisons know by a short name."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

# the released models' smaller FFN of low-level tokens
_LITE: dict[str, Any] = dict(type="LiteDETREncoder", small_low_level_ffn=True)

# Short name to what ``model.encoder`` gets besides the detector's own layer settings.
VARIANTS: dict[str, dict[str, Any]] = {
    "dense": dict(type="DenseEncoder"),
    "focus": dict(type="DualAttentionEncoder", selector=dict(type="FocusTokenSelector")),
    "lite": dict(_LITE, schedule="H3L1-(2+1)x3"),
    "lite-3+1x2": dict(_LITE, schedule="H3L1-(3+1)x2"),
    "lite-6+1x1": dict(_LITE, schedule="H3L1-(6+1)x1"),
    "lite-h2l2": dict(_LITE, schedule="H2L2-(2+1)x3"),
    "lite-key-aware": dict(_LITE, schedule="H3L1-(2+1)x3", attention="key_aware"),
    "lite-focus": dict(_LITE, schedule="H3L1-(2+1)x3", selector=dict(type="FocusTokenSelector")),
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
