"""Recognition of released models by the names in a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable

FAMILIES = {
    "dino": ("detrex", "official"),
    "dn_deformable_detr": ("detrex", "official"),
    "focus_dino": ("detrex",),
    "h_deformable_detr": ("detrex", "official"),
    "lite_dino": ("official",),
    "sparse_deformable_detr": ("official",),
}
"""Families of released models that can be converted, with the naming conventions of their files:
detrex's, or that of Deformable DETR's repository."""


def convention_of(names: Iterable[str]) -> str | None:
    """'detrex', 'official', or None if the names follow neither convention."""
    names = list(names)
    if any(name.startswith("neck.convs.") for name in names):
        return "detrex" if any(name.startswith("transformer.") for name in names) else None
    return "official" if any(name.startswith("input_proj.") for name in names) else None


def looks_like(names: Iterable[str]) -> str | None:
    """The family (one of :data:`FAMILIES`) or a description of another model with such names.

    Returns:
        None if the names are not known.
    """
    names = list(names)

    def has(part: str) -> bool:
        return any(part in name for name in names)

    if has("bbox_head.cls_branches."):
        return "a checkpoint of MMDetection or of this package, which needs no conversion"
    if has("transformer.enc_mask_predictor."):
        return "focus_dino" if has("transformer.alpha") else "sparse_deformable_detr"
    if has("roi_heads.") or has("rpn_head."):
        return "a two-stage convolutional detector"
    if not has("transformer.encoder."):
        return None
    if not has("sampling_offsets."):
        return "a DETR without deformable attention"
    first_stage = has("transformer.enc_output.")
    if has("refpoint_embed.") and not first_stage:
        return "dn_deformable_detr" if has("label_enc") else "DAB-Deformable-DETR"
    if first_stage and has("transformer.tgt_embed."):
        # small FFNs of the low levels, or key-aware attention
        light = has("encoder.layers.0.self_attn.query_proj.") or has(".linear12.")
        return "lite_dino" if light else "dino"
    if has("transformer.pos_trans."):
        learned = "query_embed.weight" in names or "query_embedding.weight" in names
        return "h_deformable_detr" if learned else "two-stage Deformable DETR"
    return "one-stage Deformable DETR" if has("query_embed") else None


def check_family(names: Iterable[str], family: str) -> str:
    """The convention of a file's names, if the file is one of ``family``.

    Raises:
        ValueError: an unknown family, names of another model, which the message describes, or a
            convention that the family was not released in.
    """
    names = list(names)
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    kind = looks_like(names)
    convention = convention_of(names)
    if kind != family or convention is None:
        description = "no known model" if kind is None else kind
        examples = ", ".join(sorted(names)[:3]) or "none"
        raise ValueError(
            f"the file is not a {family} model: it looks like {description} "
            f"({len(names)} tensors, such as {examples})"
        )
    if convention not in FAMILIES[family]:
        raise ValueError(
            f"{family} has {' or '.join(FAMILIES[family])} names, not {convention} ones"
        )
    return convention
