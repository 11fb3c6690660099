"""What makes an MMDetection transformer detector take any encoder."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmdet.structures import SampleList
from torch import Tensor, nn

from sparse_encoders.attention import KeyAwareDeformableAttention
from sparse_encoders.autocast import precisely
from sparse_encoders.contracts import DetectorParts, Targets
from sparse_encoders.detectors import batches
from sparse_encoders.detectors.batches import annotations_of, targets_of, with_enough_tokens
from sparse_encoders.detectors.recording import record_cross_attention
from sparse_encoders.detectors.reporting import token_reports
from sparse_encoders.encoders.base import Encoder, EncoderOutput, use_attention
from sparse_encoders.registry import build_swappable
from sparse_encoders.tokens import TokenGrid, count_valid


@dataclass(frozen=True)
class Pass:
    """One pass through encoder and decoder.

    Attributes:
        head_inputs: what ``bbox_head`` takes.
        encoded: what the encoder gave.
        attention_map: (B, N) how much the decoder looked at each token, where
            it was recorded.
    """

    head_inputs: dict[str, Any]
    encoded: EncoderOutput
    attention_map: Tensor | None = None


class EncoderHost:
    """Mixin for MMDetection's transformer detectors, put before them in the bases.

    It builds ``encoder`` from config, gives encoder and decoder this package's
    deformable attention, and adds the encoder's losses to the detector's. All
    else, from the neck to the heads, stays MMDetection's.

    Args:
        attention_backend: 'auto', 'fused', 'mmcv' or 'torch', for encoder and
            decoder alike.
        decoder_attention: 'plain', or 'key_aware' (Lite DETR, section 3.4) in the
            decoder's cross-attention; the encoder has a setting of its own.
        decoder_key_aware: settings of key-aware attention, see
            :class:`LiteDETREncoder`.
        keep_ratio: in ``test_cfg``, keep this share of the tokens at test time
            instead of the one trained with; a number or one for each layer.
        report_tokens: in ``test_cfg``, True puts what the encoder kept and what the
            decoder looked at into the data samples (``token_selection``), for
            the metrics of :mod:`sparse_encoders.evaluation`.
    """

    encoder: Encoder
    # modules of MMDetection, which is not typed
    decoder: Any
    bbox_head: Any
    memory_trans_fc: Any
    memory_trans_norm: Any
    num_queries: int
    num_feature_levels: int
    test_cfg: dict[str, Any] | None

    def __init__(
        self,
        *args: Any,
        attention_backend: str = "auto",
        decoder_attention: str = "plain",
        decoder_key_aware: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.attention_backend = attention_backend
        self.decoder_attention = (decoder_attention, decoder_key_aware)
        super().__init__(*args, **kwargs)
        self._check_settings()
        keep_ratio = (self.test_cfg or {}).get("keep_ratio")
        if keep_ratio is not None:
            self.encoder.set_keep_ratio(keep_ratio, test_only=True)

    def _check_settings(self) -> None:
        """Refuse at once what would fail in the middle of an epoch."""
        wanted = int((self.test_cfg or {}).get("max_per_img", 100))
        available = self.num_queries * int(self.bbox_head.cls_out_channels)
        if wanted > available:
            raise ValueError(
                f"model.test_cfg.max_per_img is {wanted}, but {self.num_queries} queries of "
                f"{self.bbox_head.cls_out_channels} classes give at most {available} detections"
            )

    # -- building ---------------------------------------------------------

    def _init_layers(self) -> None:
        """Let MMDetection build its layers, then put the configured encoder in place."""
        config = dict(self.encoder or {})
        # MMDetection names its encoder class in code: give it one layer to build
        # and to read the channel count from, and replace it.
        stand_in = {"num_layers": 1, "layer_cfg": copy.deepcopy(config.get("layer_cfg"))}
        if stand_in["layer_cfg"] is None:
            stand_in["layer_cfg"] = self._default_layer_cfg()
        self.encoder = stand_in  # type: ignore[assignment]
        super()._init_layers()  # type: ignore[misc]
        self.encoder = self._build_encoder(config)
        use_attention(
            self.decoder, self.attention_backend, *self.decoder_attention, setting="decoder_"
        )

    def init_weights(self) -> None:
        """MMDetection's initialisation, and that of the attention it does not know."""
        super().init_weights()  # type: ignore[misc]
        for module in self.modules():  # type: ignore[attr-defined]
            if isinstance(module, KeyAwareDeformableAttention):
                module.init_weights()
        self.encoder.init_own_weights()

    def _default_layer_cfg(self) -> dict[str, Any]:
        levels = self.num_feature_levels
        return {
            "self_attn_cfg": {"embed_dims": 256, "num_levels": levels},
            "ffn_cfg": {"embed_dims": 256, "feedforward_channels": 2048, "ffn_drop": 0.0},
        }

    def _build_encoder(self, config: dict[str, Any]) -> Encoder:
        """The encoder of a config; without a ``type`` it is MMDetection's dense one."""
        known = {
            "num_levels": self.num_feature_levels,
            "attention_backend": self.attention_backend,
            "first_stage": bool(getattr(self, "as_two_stage", False)),
            "num_classes": self.bbox_head.cls_out_channels,
        }
        return build_swappable({"type": "DenseEncoder", **config}, Encoder, "model.encoder", known)

    # -- what the encoder borrows ----------------------------------------

    def detector_parts(self) -> DetectorParts:
        """The projection, the category head and the loss that this detector lends."""
        last = self._num_decoder_layers
        if not getattr(self, "as_two_stage", False):
            return DetectorParts(
                category_head=lambda layer: self._branch(min(layer, last - 1)),
                detection_loss=self._detection_loss,
            )
        return DetectorParts(
            projection=lambda x: self.memory_trans_norm(self.memory_trans_fc(x)),
            # the two-stage head stands after the decoder layers' heads
            category_head=lambda layer: self._branch(last),
            detection_loss=self._detection_loss,
        )

    def _detection_loss(
        self, logits: Tensor, boxes: Tensor, targets: Targets
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Class, box and IoU losses of predictions matched like a decoder layer's."""
        found: tuple[Tensor, Tensor, Tensor] = self.bbox_head.loss_by_feat_single(
            logits,
            boxes,
            batch_gt_instances=[sample.gt_instances for sample in targets.samples],
            batch_img_metas=[sample.metainfo for sample in targets.samples],
        )
        return found

    def _matching_queries(self) -> slice:
        """The decoder queries that also exist at test time; denoising ones stand before them."""
        return slice(-self.num_queries, None)

    @property
    def _num_decoder_layers(self) -> int:
        return int(self.decoder.num_layers)

    def _branch(self, index: int) -> nn.Module:
        branch: nn.Module = self.bbox_head.cls_branches[index]
        return branch

    # -- forward ----------------------------------------------------------

    def forward_transformer(
        self, img_feats: Sequence[Tensor], batch_data_samples: SampleList | None = None
    ) -> dict[str, Any]:
        """MMDetection's four steps; returns the inputs of ``bbox_head``."""
        parts = self.detector_parts()
        if self.encoder.needs_boxes:
            parts = replace(parts, targets=annotations_of(batch_data_samples))
        return self._run(img_feats, batch_data_samples, parts).head_inputs

    def _run(
        self,
        img_feats: Sequence[Tensor],
        samples: SampleList | None,
        parts: DetectorParts,
        record: bool = False,
    ) -> Pass:
        """Encode and decode; ``record`` also what the decoder looks at."""
        encoder_inputs, decoder_inputs = self.pre_transformer(img_feats, samples)  # type: ignore[attr-defined]
        tokens = self._token_grid(img_feats, encoder_inputs, samples)
        encoded = self.encoder(tokens, parts)
        queries, head_inputs = self._pre_decoder(encoded, samples)
        decoder_inputs.update(queries)
        # host shapes: the decoder's attention need not read them off the device
        decoder_inputs.update(memory=encoded.memory, spatial_shapes=tokens.shapes)
        attention_map = None
        if record:
            with record_cross_attention(self.decoder, self._matching_queries()) as seen:
                head_inputs.update(self.forward_decoder(**decoder_inputs))  # type: ignore[attr-defined]
            attention_map = seen.attention_map(tokens.shapes)
        else:
            head_inputs.update(self.forward_decoder(**decoder_inputs))  # type: ignore[attr-defined]
        return Pass(head_inputs, encoded, attention_map)

    def _token_grid(
        self,
        img_feats: Sequence[Tensor],
        encoder_inputs: dict[str, Tensor],
        samples: SampleList | None,
    ) -> TokenGrid:
        shapes = tuple((int(f.shape[-2]), int(f.shape[-1])) for f in img_feats)
        image_hw, max_valid = None, None
        if samples:
            height, width = samples[0].batch_input_shape[:2]
            image_hw = (int(height), int(width))
            max_valid = max(count_valid(shapes, image_hw, s.img_shape[:2]) for s in samples)
        return TokenGrid(
            features=encoder_inputs["feat"],
            positions=encoder_inputs["feat_pos"],
            padding_mask=encoder_inputs["feat_mask"],
            shapes=shapes,
            valid_ratios=encoder_inputs["valid_ratios"],
            image_hw=image_hw,
            max_valid=max_valid,
        )

    def _pre_decoder(
        self, encoded: EncoderOutput, samples: SampleList | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """MMDetection's query preparation; subclasses add what theirs takes."""
        memory, mask, shapes = with_enough_tokens(encoded, self.num_queries)
        return self.pre_decoder(memory, mask, shapes)  # type: ignore[attr-defined]

    # -- training and testing ----------------------------------------------

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """The detector's losses and its encoder's, under their own names."""
        img_feats = self.extract_feat(batch_inputs)  # type: ignore[attr-defined]
        targets = targets_of(batch_data_samples)
        parts = replace(
            self.detector_parts(),
            for_loss=True,
            targets=targets if self.encoder.needs_boxes else None,
        )
        done = self._run(img_feats, batch_data_samples, parts, self.encoder.learns_from_decoder)
        targets = replace(targets, attention_map=done.attention_map)
        losses, extra = precisely(
            lambda found: (
                self._head_loss(found.head_inputs, batch_data_samples),
                self.encoder.loss(found.encoded, targets, parts),
            ),
            done,
            self.bbox_head,
        )
        clash = losses.keys() & extra.keys()
        if clash:
            raise ValueError(f"encoder and head both name a loss {sorted(clash)}")
        return {**losses, **extra}

    def _head_loss(self, head_inputs: dict[str, Any], samples: SampleList) -> dict[str, Tensor]:
        """The losses of ``bbox_head``."""
        losses: dict[str, Tensor] = self.bbox_head.loss(**head_inputs, batch_data_samples=samples)
        return losses

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True
    ) -> SampleList:
        """MMDetection's predictions; with ``test_cfg.report_tokens`` also ``token_selection``."""
        report = bool((self.test_cfg or {}).get("report_tokens", False))
        img_feats = self.extract_feat(batch_inputs)  # type: ignore[attr-defined]
        parts = self.detector_parts()
        if self.encoder.needs_boxes:
            parts = replace(parts, targets=annotations_of(batch_data_samples))
        done = self._run(img_feats, batch_data_samples, parts, record=report)
        asked = dict(rescale=rescale, batch_data_samples=batch_data_samples)
        head = self.bbox_head
        results = precisely(lambda given: head.predict(**given, **asked), done.head_inputs, head)
        samples: SampleList = self.add_pred_to_datasample(  # type: ignore[attr-defined]
            batch_data_samples, batches.in_float32(results)
        )
        if done.attention_map is not None:
            reports = token_reports(done.encoded, done.attention_map)
            for sample, found in zip(samples, reports, strict=True):
                sample.token_selection = found
        return samples

    def set_keep_ratio(self, keep_ratio: float | Sequence[float]) -> None:
        """Keep another share of the tokens from now on, see :class:`Encoder`."""
        self.encoder.set_keep_ratio(keep_ratio)
