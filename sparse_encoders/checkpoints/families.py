"""Recognition of released models by the names in a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable

FAMILIES = (
    "dino",
    "dn_deformable_detr",
    "focus_dino",
    "h_deformable_detr",
    "lite_dino",
    "sparse_deformable_detr",
)
"""Families of released models that can be converted."""

CONVENTIONS = ("detrex", "official")
"""Naming conventions: detrex's, or that of Deformable DETR's repository."""

OURS = "a checkpoint of MMDetection or of this package, which needs no conversion"


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

    def has(*parts: str) -> bool:
        return all(any(part in name for name in names) for part in parts)

    if has("bbox_head.cls_branches."):
        return OURS
    if has("transformer.enc_mask_predictor."):
        return "focus_dino" if has("transformer.alpha") else "sparse_deformable_detr"
    if has("roi_heads.") or has("rpn_head."):
        return "a two-stage convolutional detector"
    deformable = has("transformer.encoder.", "sampling_offsets.")
    if has("transformer.encoder.") and not deformable:
        return "a DETR without deformable attention"
    if not deformable:
        return None
    first_stage = has("transformer.enc_output.")
    if has("refpoint_embed.") and not first_stage:
        return "dn_deformable_detr" if has("label_enc") else "DAB-Deformable-DETR"
    if first_stage and has("transformer.tgt_embed."):
        light = any(
            name.startswith("transformer.encoder.layers.")
            and (".linear12." in name or ".self_attn.query_proj." in name)
            for name in names
        )
        return "lite_dino" if light else "dino"
    if has("transformer.pos_trans."):
        learned = any(name in ("query_embed.weight", "query_embedding.weight") for name in names)
        return "h_deformable_detr" if learned else "two-stage Deformable DETR"
    if has("query_embed"):
        return "one-stage Deformable DETR"
    return None


def check_family(names: Iterable[str], family: str) -> str:
    """The convention of a file's names, if the file is one of ``family``.

    Raises:
        ValueError: an unknown family, or names of another model, which the message describes.
    """
    names = list(names)
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    kind = looks_like(names)
    convention = convention_of(names)
    if kind == family and convention is not None:
        return convention
    description = "no known model" if kind is None else kind
    examples = ", ".join(sorted(names)[:3]) or "none"
    raise ValueError(
        f"the file is not a {family} model: it looks like {description} "
        f"({len(names)} tensors, such as {examples})"
    )
