"""Which deformable attention a layer is built with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparse_encoders.attention.deformable import DeformableAttention
from sparse_encoders.attention.key_aware import KeyAwareDeformableAttention

ATTENTIONS = ("plain", "key_aware")
KEY_AWARE_SETTINGS = ("same_locations_on_every_level", "separate_key_projection")
# What an MMDetection config says of its attention that key-aware attention has, too.
_SHARED = ("embed_dims", "num_heads", "num_levels", "num_points", "dropout", "batch_first")


def attention_config(
    config: Mapping[str, Any] | None,
    backend: str,
    kind: str = "plain",
    key_aware: Mapping[str, Any] | None = None,
    setting: str = "encoder.",
) -> dict[str, Any]:
    """A config of MMDetection's deformable attention, told which of this package's it is.

    ``MODELS.build`` makes the module of it. Plain attention has MMCV's parameters, names and
    initialisation; only the operator behind them differs.

    Args:
        config: MMDetection's ``self_attn_cfg`` or ``cross_attn_cfg``; not changed.
        backend: 'auto', 'fused', 'mmcv' or 'torch'; key-aware attention has no 'mmcv' and takes
            'torch' in its place.
        kind: 'plain' or 'key_aware'.
        key_aware: further settings of :class:`KeyAwareDeformableAttention`.
        setting: what stands before 'attention' and 'key_aware' in messages.

    Raises:
        ValueError: an unknown kind, unknown settings, or ``key_aware`` for plain attention.
    """
    if kind not in ATTENTIONS:
        raise ValueError(f"{setting}attention must be one of {ATTENTIONS}, got {kind!r}")
    further = dict(key_aware or {})
    unknown = sorted(further.keys() - set(KEY_AWARE_SETTINGS))
    if unknown:
        raise ValueError(
            f"{setting}key_aware accepts {', '.join(KEY_AWARE_SETTINGS)}, got {', '.join(unknown)}"
        )
    if further and kind == "plain":
        raise ValueError(
            f"{setting}key_aware is set ({key_aware}), but {setting}attention is 'plain'"
        )
    # MMCV's dropout of 0.1 holds where a config describes the attention, as in MMDetection's layers
    settings = {"batch_first": True, "dropout": 0.1 if config else 0.0, **(config or {})}
    if kind == "plain":
        return {**settings, "type": DeformableAttention, "backend": backend}
    shared = {key: settings[key] for key in _SHARED if key in settings}
    backend = "torch" if backend == "mmcv" else backend
    return {**shared, **further, "type": KeyAwareDeformableAttention, "backend": backend}
