"""Records passed between a detector's three steps: encode, prepare queries, decode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Proposals:
    """Predictions of a first stage, for its losses.

    Attributes:
        logits: (B, n, classes) class logits, of all tokens or of the chosen ones.
        boxes: (B, n, 4) boxes (cx, cy, w, h) as shares of the image.
    """

    logits: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class Queries:
    """The input of a decoder: Q queries, denoising queries first.

    Attributes:
        content: (B, Q, C).
        reference_points: (B, Q, 2) as (x, y) or (B, Q, 4) as (cx, cy, w, h), in [0, 1].
        pos_embed: (B, Q, C) position embedding; None if the decoder computes it
            from the reference points.
        attention_mask: (Q, Q) bool, True where a query may not attend; None: no
            mask.
        proposals: of the first stage, in training; None without one.
        dense: of DDQ-DETR's dense branch, in training; None elsewhere.
        denoising: MMDetection's ``dn_meta`` (``num_denoising_queries``, groups),
            in training; None without denoising.
    """

    content: Tensor
    reference_points: Tensor
    pos_embed: Tensor | None = None
    attention_mask: Tensor | None = None
    proposals: Proposals | None = None
    dense: Proposals | None = None
    denoising: dict[str, int] | None = None

    @classmethod
    def from_mmdet(
        cls, decoder_inputs: Mapping[str, Any], head_inputs: Mapping[str, Any]
    ) -> Queries:
        """From the two dicts that ``pre_decoder`` of an MMDetection detector returns."""
        return cls(
            content=decoder_inputs["query"],
            reference_points=decoder_inputs["reference_points"],
            pos_embed=decoder_inputs.get("query_pos"),
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
    """The output of a decoder.

    Attributes:
        states: (layers, B, Q, C) queries after each layer.
        references: per layer the (B, Q, 2 or 4) points or boxes that its box
            branch corrects; MMDetection's decoders add a last one, which is not read.
        attention_map: (B, N) float32 decoder attention map, if it was recorded.
    """

    states: Tensor
    references: list[Tensor]
    attention_map: Tensor | None = None
