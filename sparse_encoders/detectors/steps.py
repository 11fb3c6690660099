"""The three steps of a detector: encode, prepare queries, decode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from mmdet.models.detectors.base_detr import DetectionTransformer
from mmdet.structures import SampleList
from torch import Tensor

from sparse_encoders.attention.base import level_shapes
from sparse_encoders.contracts import DetectionLoss, DetectorParts, Targets
from sparse_encoders.detectors.batches import with_enough_tokens
from sparse_encoders.detectors.recording import record_cross_attention
from sparse_encoders.detectors.records import Decoded, Queries
from sparse_encoders.encoders.base import EncoderOutput
from sparse_encoders.tokens import TokenGrid, count_valid, padding_masks

ImageSize = tuple[int, int]


class DetectorSteps(DetectionTransformer):
    """How a batch goes through a detector, in training, at test time and when deployed.

    :meth:`encode`, :meth:`prepare_queries` and :meth:`decode` are called one after another and
    pass on records of :mod:`sparse_encoders.detectors.records`. The class also has the parts that
    a detector lends to its encoder for the length of a call.
    """

    def detector_parts(self, targets: Targets | None = None) -> DetectorParts:
        """What this detector lends to its encoder; ``targets`` for a selector that reads them."""
        heads, last = self.bbox_head.cls_branches, int(self.decoder.num_layers)
        if not self.as_two_stage:
            return DetectorParts(
                category_head=lambda layer: heads[min(layer, last - 1)], targets=targets
            )
        return DetectorParts(
            projection=lambda x: self.memory_trans_norm(self.memory_trans_fc(x)),
            # the first stage's head comes after those of the decoder layers
            category_head=lambda layer: heads[last],
            targets=targets,
        )

    def detection_loss(self, samples: SampleList) -> DetectionLoss:
        """The class, box and IoU losses of the head, matched as a decoder layer's."""
        return partial(
            self.bbox_head.loss_by_feat_single,
            batch_gt_instances=[sample.gt_instances for sample in samples],
            batch_img_metas=[sample.metainfo for sample in samples],
        )

    def matching_queries(self, queries: Queries) -> slice:
        """The decoder queries that also exist at test time; denoising queries precede them."""
        start = 0 if queries.denoising is None else queries.denoising["num_denoising_queries"]
        return slice(start, start + self.num_queries)

    def encode(
        self,
        features: Sequence[Tensor],
        image_hw: ImageSize,
        image_sizes: Sequence[ImageSize] | None = None,
        targets: Targets | None = None,
    ) -> EncoderOutput:
        """Feature maps to refined memory: :meth:`tokenize`, then the encoder.

        ``loss``, ``predict`` and ``forward_transformer`` call it with a batch of MMDetection's, a
        deployed model with one image.

        Args:
            features: per level (B, C, h, w), finest first, as the neck gives them.
            image_hw: (height, width) of the batched, padded input in pixels.
            image_sizes: (height, width) of each image before padding; None: all fill
                the input.
            targets: boxes in pixels of the padded input, for an encoder that reads them
                (``encoder.needs_boxes``); None otherwise.

        Returns:
            What the encoder returned; ``memory`` is (B, N, C), N the cells of all levels.

        Raises:
            ValueError: see :meth:`Encoder.forward`.
        """
        tokens = self.tokenize(features, image_hw, image_sizes)
        output: EncoderOutput = self.encoder(tokens, self.detector_parts(targets))
        return output

    def tokenize(
        self,
        features: Sequence[Tensor],
        image_hw: ImageSize,
        image_sizes: Sequence[ImageSize] | None = None,
    ) -> TokenGrid:
        """Feature maps with position and level embedding as one grid, see :meth:`encode`."""
        masks = padding_masks(features, image_hw, image_sizes)
        pos_embed = [
            self.positional_encoding(None if masks is None else masks[level], input=feature)
            + self.level_embed[level][:, None, None]
            for level, feature in enumerate(features)
        ]
        tokens = TokenGrid.from_maps(features, pos_embed, masks, image_hw)
        if masks is None:
            return tokens  # all are valid
        sizes = image_sizes or [image_hw]
        counts = [count_valid(tokens.shapes, image_hw, size) for size in sizes]
        by_level = tuple(max(level) for level in zip(*counts, strict=True))
        return replace(tokens, max_valid=max(map(sum, counts)), level_max_valid=by_level)

    def prepare_queries(self, encoded: EncoderOutput, samples: SampleList | None = None) -> Queries:
        """The queries that the decoder starts from; here by MMDetection's ``pre_decoder``.

        ``loss``, ``predict``, ``forward_transformer`` and a deployed model call it after
        :meth:`encode`. In a one-stage detector queries are learned; in a two-stage one they are the
        Q proposals with the highest scores (Zhu et al., Deformable DETR, ICLR 2021, section 4 and
        appendix A.4). A memory of fewer than Q tokens is padded first.

        Args:
            encoded: what :meth:`encode` returned.
            samples: MMDetection's data samples; read in training only, by detectors with denoising
                queries, for their boxes (x1, y1, x2, y2) in pixels and labels.

        Returns:
            (B, Q, C) content and (B, Q, 2 or 4) reference points in [0, 1] of the valid image; in
            training the first stage's proposals, and denoising queries before the others.
        """
        memory, mask, shapes = with_enough_tokens(encoded, self.num_queries)
        return Queries.from_mmdet(*self.pre_decoder(memory, mask, shapes))

    def gen_encoder_output_proposals(
        self, memory: Tensor, memory_mask: Tensor | None, spatial_shapes: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Each token's projection and proposal (Deformable DETR, appendix A.4), as MMDetection's.

        MMDetection copies the size of each level to the device, for which the host would wait.

        Args:
            memory: (B, N, C).
            memory_mask: (B, N) bool, True where a token is padding; None where none is.
            spatial_shapes: (h, w) of each level, on the host.

        Returns:
            (B, N, C) memory through the first stage's projection, and (B, N, 4) boxes before the
            sigmoid; zeros and infinite where a token is padding or its box out of range.
        """
        shapes = level_shapes(spatial_shapes)
        ratios = memory.new_ones(memory.shape[0], len(shapes), 2)
        grid = TokenGrid(memory, memory, memory_mask, shapes, ratios)
        usable = memory.masked_fill(grid.unusable, 0.0)
        return self.memory_trans_norm(self.memory_trans_fc(usable)), grid.proposals

    def decode(self, queries: Queries, encoded: EncoderOutput, record: bool = False) -> Decoded:
        """Refine the queries in every decoder layer.

        ``loss``, ``predict``, ``forward_transformer`` and a deployed model call it after
        :meth:`prepare_queries`. A detector with another decoder overrides :meth:`run_decoder`.

        Args:
            queries: what :meth:`prepare_queries` returned.
            encoded: what :meth:`encode` returned; its memory holds the values.
            record: also compute ``attention_map``, the cross-attention of the matching queries
                summed on the tokens (Sparse DETR, section 3.3): for a loss or a metric.

        Returns:
            (layers, B, Q, C) states and the boxes that each layer's box branch corrects.

        Raises:
            ValueError: ``record`` for a decoder without deformable cross-attention.
        """
        if not record:
            return self.run_decoder(queries, encoded)
        with record_cross_attention(self.decoder, self.matching_queries(queries)) as reads:
            decoded = self.run_decoder(queries, encoded)
        return replace(decoded, attention_map=reads.attention_map(encoded.tokens.shapes))

    def run_decoder(self, queries: Queries, encoded: EncoderOutput) -> Decoded:
        """Call the decoder, as MMDetection's ``forward_decoder`` does."""
        outputs = self.forward_decoder(
            **self.decoder_inputs(queries),
            memory=encoded.memory,
            memory_mask=encoded.tokens.padding_mask,
            # on the host, so that the attention does not have to read them from the device
            spatial_shapes=encoded.tokens.shapes,
            level_start_index=None,
            valid_ratios=encoded.tokens.valid_ratios,
        )
        return Decoded(outputs["hidden_states"], outputs["references"])

    def decoder_inputs(self, queries: Queries) -> dict[str, Any]:
        """Arguments of ``forward_decoder`` that come from the queries."""
        return dict(
            query=queries.content,
            query_pos=queries.pos_embed,
            reference_points=queries.reference_points,
        )
