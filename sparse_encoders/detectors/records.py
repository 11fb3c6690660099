"""What travels between a detector's three steps: encode, prepare queries, decode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Proposals:
    """What a first stage predicts, for its losses.

    Attributes:
        logits: (B, n, classes) class logits, of all tokens or of the chosen ones.
        boxes: (B, n, 4) boxes (cx, cy, w, h) as shares of the image.
    """

    logits: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class Queries:
    """What a decoder starts from; Q queries, those of denoising first.

    Attributes:
        content: (B, Q, C).
        reference_points: (B, Q, 2) as (x, y) or (B, Q, 4) as (cx, cy, w, h), in [0, 1].
        position: (B, Q, C) position embedding; None where the decoder makes it
            from the reference points.
        attention_mask: (Q, Q) bool, True where a query may not attend; None
            hides nothing.
        proposals: of the first stage, in training; None without one.
        dense: of DDQ-DETR's dense branch, in training; None elsewhere.
        denoising: MMDetection's ``dn_meta`` (``num_denoising_queries``, groups),
            in training; None without denoising.
    """

    content: Tensor
    reference_points: Tensor
    position: Tensor | None = None
    attention_mask: Tensor | None = None
    proposals: Proposals | None = None
    dense: Proposals | None = None
    denoising: dict[str, int] | None = None

    @classmethod
    def from_mmdet(
        cls, decoder_inputs: Mapping[str, Any], head_inputs: Mapping[str, Any]
    ) -> Queries:
        """Of the two dicts that ``pre_decoder`` of an MMDetection detector gives."""
        return cls(
            content=decoder_inputs["query"],
            reference_points=decoder_inputs["reference_points"],
            position=decoder_inputs.get("query_pos"),
            attention_mask=decoder_inputs.get("dn_mask"),
            proposals=_proposals(head_inputs, "enc_outputs"),
            dense=_proposals(head_inputs, "aux_enc_outputs"),
            denoising=head_inputs.get("dn_meta"),
        )


def _proposals(head_inputs: Mapping[str, Any], name: str) -> Proposals | None:
    logits, boxes = head_inputs.get(f"{name}_class"), head_inputs.get(f"{name}_coord")
    return None if logits is None or boxes is None else Proposals(logits, boxes)


@dataclass(frozen=True)
class Decoded:
    """What a decoder gives.

    Attributes:
        states: (layers, B, Q, C) queries after each layer.
        references: per layer the (B, Q, 2 or 4) points or boxes that its box
            branch corrects (and a last one that nobody reads, in MMDetection's own).
        attention_map: (B, N) how much the decoder looked at each token, where
            it was recorded.
    """

    states: Tensor
    references: list[Tensor]
    attention_map: Tensor | None = None
