"""Deformable DETR (Zhu et al., ICLR 2021) with any encoder, and Sparse DETR's variant of it."""

from __future__ import annotations

from typing import Any

from mmdet.models.detectors import DeformableDETR as MMDetDeformableDETR
from mmdet.structures import SampleList
from torch import Tensor, nn

from sparse_encoders.detectors.batches import targets_of, with_enough_tokens
from sparse_encoders.detectors.host import EncoderHost
from sparse_encoders.encoders.base import EncoderOutput
from sparse_encoders.registry import DETECTORS


@DETECTORS.register_module()
class DeformableDETR(EncoderHost, MMDetDeformableDETR):
    """MMDetection's Deformable DETR; ``encoder.type`` chooses how tokens are refined.

    One-stage (learned queries), with box refinement, or two-stage, as
    MMDetection's settings say. In a config:
    ``type='sparse_encoders.DeformableDETR'``. With ``DenseEncoder`` (the default)
    it is MMDetection's bit for bit, and loads its checkpoints. Sparse DETR's
    detector (Roh et al., ICLR 2022, section 4 and appendix) is two-stage with box
    refinement and both options on.

    Args:
        efficient_query_init: a query's content is the memory of its proposal, and
            only its position comes from the proposal's box,
            LN(Linear(sine embedding)), after Efficient DETR. Changes the shape of
            ``pos_trans_fc`` and ``pos_trans_norm``.
        class_specific_first_stage: the first stage learns the classes, and
            proposals are ranked by their best class; False is Deformable DETR's:
            its first class stands for any object.

    Raises:
        ValueError: one of the two options on a one-stage detector.
    """

    def __init__(
        self,
        *args: Any,
        efficient_query_init: bool = False,
        class_specific_first_stage: bool = False,
        as_two_stage: bool = False,
        **kwargs: Any,
    ) -> None:
        for name, given in (
            ("efficient_query_init", efficient_query_init),
            ("class_specific_first_stage", class_specific_first_stage),
        ):
            if given and not as_two_stage:
                raise ValueError(f"model.{name}=True needs model.as_two_stage=True, got False")
        self.efficient_query_init = efficient_query_init
        self.class_specific_first_stage = class_specific_first_stage
        super().__init__(*args, as_two_stage=as_two_stage, **kwargs)

    def _init_layers(self) -> None:
        super()._init_layers()
        if self.efficient_query_init:
            self.pos_trans_fc = nn.Linear(self.embed_dims * 2, self.embed_dims)
            self.pos_trans_norm = nn.LayerNorm(self.embed_dims)

    def _pre_decoder(
        self, encoded: EncoderOutput, samples: SampleList | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The best proposals as queries, MMDetection's way or Sparse DETR's."""
        if not (self.efficient_query_init or self.class_specific_first_stage):
            return super()._pre_decoder(encoded, samples)
        memory, mask, shapes = with_enough_tokens(encoded, self.num_queries)
        projected, proposals = self.gen_encoder_output_proposals(memory, mask, shapes)
        classes = self.bbox_head.cls_branches[self._num_decoder_layers](projected)
        boxes = self.bbox_head.reg_branches[self._num_decoder_layers](projected) + proposals
        foreground = classes.amax(-1) if self.class_specific_first_stage else classes[..., 0]
        best = foreground.topk(self.num_queries, dim=1).indices.unsqueeze(-1)
        chosen = boxes.gather(1, best.expand(-1, -1, 4)).detach()
        embedded = self.pos_trans_norm(
            self.pos_trans_fc(self.get_proposal_pos_embed(chosen, self.embed_dims // 2))
        )
        if self.efficient_query_init:
            position, content = embedded, memory.gather(1, best.expand(-1, -1, self.embed_dims))
        else:
            position, content = embedded.split(self.embed_dims, dim=2)
        queries = dict(query=content, query_pos=position, reference_points=chosen.sigmoid())
        if not self.training:
            return queries, {}
        return queries, dict(enc_outputs_class=classes, enc_outputs_coord=boxes.sigmoid())

    def _head_loss(self, head_inputs: dict[str, Any], samples: SampleList) -> dict[str, Tensor]:
        """The head's losses; a class-specific first stage learns the classes."""
        classes = head_inputs.get("enc_outputs_class")
        if not self.class_specific_first_stage or classes is None:
            return super()._head_loss(head_inputs, samples)
        boxes = head_inputs["enc_outputs_coord"]
        # without its outputs MMDetection's head leaves the first stage out
        rest = {**head_inputs, "enc_outputs_class": None, "enc_outputs_coord": None}
        losses = super()._head_loss(rest, samples)
        found = self._detection_loss(classes, boxes, targets_of(samples))
        first = dict(zip(("enc_loss_cls", "enc_loss_bbox", "enc_loss_iou"), found, strict=True))
        return {**losses, **first}
