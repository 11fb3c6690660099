"""The first stage of a two-stage Deformable DETR: a proposal for each token, and the best ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sparse_encoders.detectors.batches import with_enough_tokens
from sparse_encoders.detectors.records import Proposals
from sparse_encoders.encoders.base import EncoderOutput


@dataclass(frozen=True)
class Chosen:
    """The proposals that become queries.

    Attributes:
        indices: (B, Q) int64 indices of their tokens, highest score first.
        boxes: (B, Q, 4) their boxes before the sigmoid, without gradient.
    """

    indices: Tensor
    boxes: Tensor

    def of(self, memory: Tensor) -> Tensor:
        """(B, Q, C) rows of (B, N, C)."""
        return memory.gather(1, self.indices.unsqueeze(-1).expand(-1, -1, memory.shape[-1]))


@dataclass(frozen=True)
class FirstStage:
    """Outputs of the first stage for all N tokens (Zhu et al., Deformable DETR, appendix A.4).

    Attributes:
        memory: (B, N, C), with at least as many tokens as there are queries.
        logits: (B, N, classes).
        boxes: (B, N, 4) before the sigmoid.
    """

    memory: Tensor
    logits: Tensor
    boxes: Tensor

    def best(self, count: int, class_specific: bool) -> Chosen:
        """The ``count`` proposals with the highest scores.

        Args:
            count: number of proposals.
            class_specific: the score is the highest class logit; False: the logit of the first
                class, which means any object, as in Deformable DETR.
        """
        scores = self.logits.amax(-1) if class_specific else self.logits[..., 0]
        indices = scores.topk(count, dim=1).indices
        return Chosen(
            indices, self.boxes.gather(1, indices.unsqueeze(-1).expand(-1, -1, 4)).detach()
        )

    def proposals(self) -> Proposals:
        """Logits and boxes for the losses of the first stage."""
        return Proposals(self.logits, self.boxes.sigmoid())


def run_first_stage(detector: Any, encoded: EncoderOutput, count: int) -> FirstStage:
    """Class logits and boxes of every token's proposal.

    Args:
        detector: a two-stage MMDetection detector.
        encoded: the encoder's output.
        count: number of proposals that become queries.
    """
    memory, mask, shapes = with_enough_tokens(encoded, count)
    projected, proposals = detector.gen_encoder_output_proposals(memory, mask, shapes)
    head, stage = detector.bbox_head, int(detector.decoder.num_layers)
    boxes = head.reg_branches[stage](projected) + proposals
    return FirstStage(memory, head.cls_branches[stage](projected), boxes)
