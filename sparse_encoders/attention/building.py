"""The config of the deformable attention that a layer is built with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparse_encoders.attention.deformable import DeformableAttention
from sparse_encoders.attention.key_aware import KeyAwareDeformableAttention

ATTENTIONS = ("plain", "key_aware")
KEY_AWARE_SETTINGS = ("same_locations_on_every_level", "separate_key_projection")
# Settings of MMDetection's deformable attention that key-aware attention has, too.
_SHARED = ("embed_dims", "num_heads", "num_levels", "num_points", "dropout", "batch_first")


def attention_config(
    config: Mapping[str, Any] | None,
    backend: str,
    kind: str = "plain",
    key_aware: Mapping[str, Any] | None = None,
    setting: str = "encoder.",
) -> dict[str, Any]:
    """A config for ``MODELS.build`` with one of this package's attention modules as its type.

    Plain attention has MMCV's parameters, names and initialisation; the operator that computes it
    is a setting.

    Args:
        config: MMDetection's ``self_attn_cfg`` or ``cross_attn_cfg``; not changed.
        backend: 'auto', 'fused', 'mmcv' or 'torch'; key-aware attention has no 'mmcv' and uses
            'torch' instead.
        kind: 'plain' or 'key_aware'.
        key_aware: further settings of :class:`KeyAwareDeformableAttention`.
        setting: prefix of 'attention' and 'key_aware' in error messages.

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
    # as in MMDetection's layers: a given config without dropout has MMCV's default, 0.1
    settings = {"batch_first": True, "dropout": 0.1 if config else 0.0, **(config or {})}
    if kind == "plain":
        return {**settings, "type": DeformableAttention, "backend": backend}
    shared = {key: settings[key] for key in _SHARED if key in settings}
    backend = "torch" if backend == "mmcv" else backend
    return {**shared, **further, "type": KeyAwareDeformableAttention, "backend": backend}
