"""Short names of encoders for comparisons."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from sparse_encoders.encoders.schedule import InterleavedSchedule

_FOCUS: dict[str, Any] = dict(type="FocusTokenSelector")
_SPARSE: dict[str, Any] = dict(type="DecoderAttentionSelector")
_LITE: dict[str, Any] = dict(
    type="LiteDETREncoder", schedule="H3L1-(2+1)x3", attention="plain", prune_high_levels=False
)

# Settings by short name; they replace those of the config's encoder.
VARIANTS: dict[str, dict[str, Any]] = {
    "dense": dict(type="DenseEncoder"),
    "sparse": dict(type="SparseDETREncoder", selector=_SPARSE),
    "focus": dict(type="DualAttentionEncoder", selector=_FOCUS),
    "salience": dict(
        type="DualAttentionEncoder",
        selector=dict(type="SalienceTokenSelector"),
        background_embedding="released",
    ),
    "hybrid": dict(type="HybridEncoder"),
    "none": dict(type="NoEncoder"),
    **{f"dense-{layers}": dict(type="DenseEncoder", num_layers=layers) for layers in range(1, 6)},
    "lite": _LITE,
    "lite-focus": dict(_LITE, selector=_FOCUS),
    "dual-sparse": dict(type="DualAttentionEncoder", selector=_SPARSE),
    "sparse-focus": dict(type="SparseDETREncoder", selector=_FOCUS),
    "random": dict(type="SparseDETREncoder", selector=dict(type="RandomSelector")),
    "random-by-level": dict(
        type="DualAttentionEncoder", selector=dict(type="RandomSelector", by_level=True)
    ),
    "oracle": dict(type="SparseDETREncoder", selector=dict(type="OracleSelector")),
    "lite-3+1x2": dict(_LITE, schedule="H3L1-(3+1)x2"),
    "lite-6+1x1": dict(_LITE, schedule="H3L1-(6+1)x1"),
    "lite-h2l2": dict(_LITE, schedule="H2L2-(2+1)x3"),
    "lite-key-aware": dict(_LITE, attention="key_aware"),
}
#: encoders that are added to every comparison of accuracy
CONTROLS = ("none", "dense-1", "random")
#: an upper bound that reads the annotations, so it cannot be used in practice
ORACLE = "oracle"
#: a dense encoder of fewer layers, as many as cost what another encoder does: see ``matching``
MATCHED = "dense-matched"
NAMES = (*VARIANTS, MATCHED)
# Defaults of an encoder or selector, for settings that the config does not have.
_DEFAULTS: dict[str, dict[str, Any]] = {
    # the released models' smaller FFN of low-level tokens
    "LiteDETREncoder": dict(small_low_level_ffn=True),
}
# What makes a variant, so another variant's is not taken over.
_IDENTITY = {"selector", "background_embedding", "attention", "schedule", "blocks", "high_levels"}
# They have no layers of deformable attention.
_WITHOUT_LAYERS = ("HybridEncoder", "NoEncoder")
DEFAULT_LAYERS = 6
# Settings that depend on the images and not on one selector, and the selectors that have them.
_SUPERVISED = ("FocusTokenSelector", "OracleSelector")
_OF_THE_IMAGES = {"intervals": (*_SUPERVISED, "SalienceTokenSelector"), "strides": _SUPERVISED}


def label(name: str, keep_ratio: float | None) -> str:
    """Such as 'dense' or 'focus 0.3'."""
    return name if keep_ratio is None else f"{name} {keep_ratio:g}"


def prunes(name: str) -> bool:
    """Whether the named encoder has a selector, and so a keep ratio."""
    return "selector" in VARIANTS.get(name, {})


def is_control(name: str) -> bool:
    """Whether an encoder is a control: none, fewer dense layers, or random tokens."""
    return name in ("none", "random", "random-by-level") or name.startswith("dense-")


def encoder_config(
    name: str, base: Mapping[str, Any], keep_ratio: float | None = None
) -> dict[str, Any]:
    """A detector's encoder config with another encoder.

    Numbers of layers and channels stay those of the detector. Settings of an encoder or selector of
    the same type are kept; other selectors get the keep ratio and the settings that depend on the
    images (intervals). The number of blocks in a schedule of Lite DETR is fitted to the number of
    layers: '(2+1)x3' in an encoder of two layers is one block of two.

    Args:
        name: a key of :data:`VARIANTS`.
        base: the detector's encoder config.
        keep_ratio: for encoders that prune; None: the config's.

    Raises:
        ValueError: an unknown name, a schedule whose blocks do not divide the config's
            layers, or 'dense-3' and the like where the config has no more layers.
    """
    if name not in VARIANTS:
        raise ValueError(f"encoder must be one of {sorted(VARIANTS)}, got {name!r}")
    own, given = copy.deepcopy(VARIANTS[name]), copy.deepcopy(dict(base))
    config: dict[str, Any] = {k: given[k] for k in ("num_layers", "layer_cfg") if k in given}
    config.update(copy.deepcopy(_DEFAULTS.get(own["type"], {})))
    if given.get("type") == own["type"]:
        config.update({k: v for k, v in given.items() if k not in _IDENTITY})
        if own.get("attention") != "key_aware":
            config.pop("key_aware", None)
    config.update(own)
    if own["type"] in _WITHOUT_LAYERS:
        config.pop("num_layers", None)
    layers, of = own.get("num_layers"), given.get("num_layers", DEFAULT_LAYERS)
    if layers is not None and layers >= of:
        raise ValueError(
            f"encoder {name!r} has {layers} dense layers, fewer than the config's encoder, which "
            f"has {of} (model.encoder.num_layers): take dense"
            + (f" or dense-{of - 1}" if of > 1 else "")
        )
    if "selector" in own:
        config["selector"] = _selector_config(own["selector"], given.get("selector"), keep_ratio)
    if "schedule" in own:
        _fit_schedule(name, config)
    return config


def _selector_config(
    own: dict[str, Any], given: Mapping[str, Any] | None, keep_ratio: float | None
) -> dict[str, Any]:
    given = dict(given or {})
    foreign = [key for key, kinds in _OF_THE_IMAGES.items() if own["type"] not in kinds]
    if given.get("type") == own["type"]:
        kept = {key: value for key, value in given.items() if key not in foreign}
    else:
        dial = ("keep_ratio", "train_keep_ratio")
        shared = [key for key in (*dial, *_OF_THE_IMAGES) if key not in foreign]
        kept = {key: given[key] for key in shared if key in given}
    config = {**kept, **own}
    if keep_ratio is not None:
        config.pop("train_keep_ratio", None)
        config["keep_ratio"] = keep_ratio
    return config


def _fit_schedule(name: str, config: dict[str, Any]) -> None:
    """Write a named schedule as blocks where the encoder has another number of layers."""
    attention = (config.get("layer_cfg") or {}).get("self_attn_cfg") or {}
    named = InterleavedSchedule.from_name(config["schedule"], attention.get("num_levels", 4))
    layers = config.get("num_layers")
    if layers is None or layers == named.num_layers:
        return
    block = named.num_layers // named.blocks
    if layers % block:
        raise ValueError(
            f"encoder {name!r} has blocks of {block} layers, which do not divide the "
            f"{layers} layers of the config's encoder (model.encoder.num_layers)"
        )
    del config["schedule"]
    config.update(blocks=layers // block, high_levels=named.high_levels)
