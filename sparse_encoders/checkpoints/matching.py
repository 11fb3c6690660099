"""The config of this package that is nearest to a released model, and the differences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparse_encoders.configs import CocoConfig, coco_configs
from sparse_encoders.encoders.dual_attention import DualAttentionEncoder

_WINDOWS = {7: "224", 12: "384"}
_SCHEDULES = {(3, 3): "", (2, 3): "-3p1x2", (1, 3): "-6p1x1", (3, 2): "-h2l2"}


def matching_config(
    family: str, model: Mapping[str, Any], args: Mapping[str, Any] | None = None
) -> CocoConfig:
    """The config that is nearest to a released model.

    Of several training schedules it is that of the file's ``args``, else the longest.

    Args:
        family: the model's family.
        model: its config.
        args: settings of the training in the file.

    Raises:
        ValueError: there is no config of the detector.
    """
    detector = _detector_word(family, model)
    backbone, encoder = _backbone_word(model["backbone"]), _encoder_word(model)
    known = [c for c in coco_configs() if c.detector == detector]
    method = "lite-key-aware" if encoder.startswith("lite") else encoder.split("-")[0]
    words = dict.fromkeys((encoder, method, "dense"))
    for wanted in ((kind, word) for word in words for kind in (backbone, "r50")):
        by_epochs = {c.epochs: c for c in known if (c.backbone, c.encoder) == wanted}
        if by_epochs:
            return by_epochs.get((args or {}).get("epochs", 0), by_epochs[max(by_epochs)])
    raise ValueError(f"there is no config of {detector}")


def _detector_word(family: str, model: Mapping[str, Any]) -> str:
    if family == "sparse_deformable_detr":
        return "sparse-detr" if model["efficient_query_init"] else "deformable-detr-refine-twostage"
    words = {"DNDETR": "dn-deformable-detr", "HDETR": "h-deformable-detr", "DINO": "dino-4scale"}
    return words[model["type"].rpartition(".")[2]]


def _backbone_word(backbone: Mapping[str, Any]) -> str:
    if backbone["type"] == "ResNet":
        return f"r{backbone['depth']}"
    if backbone["embed_dims"] == 128:
        return f"swin-b-{_WINDOWS.get(backbone['window_size'], '')}-22k"
    return "swin-t" if (backbone["embed_dims"], backbone["depths"][2]) == (96, 6) else "swin"


def _encoder_word(model: Mapping[str, Any]) -> str:
    encoder = model["encoder"]
    if encoder["type"] == "LiteDETREncoder":
        word = "lite-key-aware" if encoder["attention"] == "key_aware" else "lite"
        return word + _SCHEDULES.get((encoder["blocks"], encoder["high_levels"]), "-other")
    if encoder["type"] == "DenseEncoder":
        return "dense"
    word = "focus" if encoder["type"] == "DualAttentionEncoder" else "sparse"
    ratios = encoder["selector"]["keep_ratio"]
    ratio = ratios if isinstance(ratios, float) else sum(ratios) / len(ratios)
    percent = round(100 * ratio)
    return word if percent == 30 else f"{word}-k{percent}"


def facts(model: Any) -> dict[str, Any]:
    """Settings of a built detector that change its predictions, by name."""
    encoder, selector, backbone = model.encoder, model.encoder.selector, model.backbone
    settings = {
        "type": type(model).__name__,
        "backbone": type(backbone).__name__,
        "backbone.out_indices": tuple(backbone.out_indices),
        "neck.bias": model.neck.convs[0].conv.bias is not None,
        "bbox_head.num_classes": model.bbox_head.num_classes,
        "positional_encoding.offset": float(model.positional_encoding.offset),
        "positional_encoding.temperature": model.positional_encoding.temperature,
        "encoder.type": type(encoder).__name__,
        "encoder.num_layers": encoder.num_layers,
        "encoder hidden channels": encoder.layer_cfg["ffn_cfg"]["feedforward_channels"],
        "decoder.num_layers": model.decoder.num_layers,
        "decoder hidden channels": model.decoder.layers[0].ffn.feedforward_channels,
        "test_cfg.max_per_img": (model.test_cfg or {}).get("max_per_img", 100),
    }
    if selector is not None:
        ratios = selector.schedule.per_layer
        settings["encoder.selector.type"] = type(selector).__name__
        settings["encoder.selector.keep_ratio"] = tuple(round(ratio, 6) for ratio in ratios)
    if isinstance(encoder, DualAttentionEncoder):
        settings["encoder.values"] = encoder.values
        settings["encoder.num_object_tokens"] = encoder.layers[0].object_attention.num_tokens
    queries = ("num_queries", "num_queries_one2many", "efficient_query_init", "num_feature_levels")
    for owner, prefix, names in (
        (model, "", (*queries, "class_specific_first_stage")),
        (backbone, "backbone.", ("depth", "embed_dims", "depths", "window_size")),
        (selector, "encoder.selector.", ("count",)),
        (encoder, "encoder.", ("object_score",)),
        (getattr(encoder, "schedule", None), "encoder.", ("blocks", "high_levels")),
    ):
        settings |= {prefix + n: getattr(owner, n) for n in names if hasattr(owner, n)}
    for part in ("backbone", "neck", "encoder", "decoder", "bbox_head"):
        settings[f"{part} parameters"] = sum(p.numel() for p in getattr(model, part).parameters())
    return settings


def differences(ours: Mapping[str, Any], named: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """For settings that differ, the released model's value and the config's.

    Numbers of parameters are included only if no other setting differs.
    """
    differing = {
        name: (ours.get(name), named.get(name))
        for name in sorted(ours.keys() | named.keys())
        if ours.get(name) != named.get(name)
    }
    explained = {k: v for k, v in differing.items() if not k.endswith(" parameters")}
    return explained or differing
