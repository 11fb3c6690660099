"""A DETR detector whose encoder is chosen in the config: build, encode, decode, losses."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mmdet.structures import SampleList
from torch import Tensor

from sparse_encoders.attention import KeyAwareDeformableAttention, attention_config
from sparse_encoders.autocast import in_float32
from sparse_encoders.contracts import Targets
from sparse_encoders.detectors import batches
from sparse_encoders.detectors.records import Decoded, Queries
from sparse_encoders.detectors.reporting import token_reports
from sparse_encoders.detectors.steps import DetectorSteps
from sparse_encoders.encoders.base import Encoder, EncoderOutput
from sparse_encoders.registry import build_swappable


class EncoderDetector(DetectorSteps):
    """Base of all detectors here; a detector lists it before MMDetection's class in its bases.

    A batch goes through the three steps of :class:`DetectorSteps`, then through
    MMDetection's head. Data preprocessor, backbone, neck and heads are MMDetection's.

    A detector builds its layers in ``_init_layers``, with :meth:`build_encoder` and
    :meth:`decoder_config`.

    Args:
        attention_backend: 'auto', 'fused', 'mmcv' or 'torch', for encoder and
            decoder alike.
        decoder_attention: 'plain', or 'key_aware' (Lite DETR, section 3.4) in the
            decoder's cross-attention; the encoder has a separate setting.
        decoder_key_aware: settings of key-aware attention, see
            :class:`LiteDETREncoder`.
        keep_ratio: in ``test_cfg``, keep this share of the tokens at test time
            instead of the one trained with; a number or one for each layer.
        report_tokens: in ``test_cfg``, True adds the kept tokens and the decoder attention map
            to the data samples (``token_selection``), for the metrics of
            :mod:`sparse_encoders.evaluation`.

    Raises:
        ValueError: ``max_per_img`` is larger than queries times classes, or a setting of the
            encoder or the attention is invalid.
    """

    # configs until ``_init_layers`` builds them; MMDetection is not typed
    positional_encoding: Any
    encoder: Any
    decoder: Any
    embed_dims: int

    def __init__(
        self,
        *args: Any,
        attention_backend: str = "auto",
        decoder_attention: str = "plain",
        decoder_key_aware: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.attention_backend = attention_backend
        self.decoder_attention = decoder_attention
        self.decoder_key_aware = decoder_key_aware
        super().__init__(*args, **kwargs)
        self._check_settings()
        keep_ratio = (self.test_cfg or {}).get("keep_ratio")
        if keep_ratio is not None:
            self.encoder.set_keep_ratio(keep_ratio, test_only=True)

    def _check_settings(self) -> None:
        """Check settings that would otherwise fail at the first test of a training."""
        max_detections = int((self.test_cfg or {}).get("max_per_img", 100))
        available = self.num_queries * int(self.bbox_head.cls_out_channels)
        if max_detections > available:
            raise ValueError(
                f"model.test_cfg.max_per_img is {max_detections}, but {self.num_queries} queries "
                f"of {self.bbox_head.cls_out_channels} classes give at most {available} detections"
            )

    # -- building ---------------------------------------------------------

    def build_encoder(self, config: dict[str, Any] | None) -> Encoder:
        """The encoder of a config; without a ``type`` it is :class:`DenseEncoder`."""
        defaults = {
            "num_levels": self.num_feature_levels,
            "attention_backend": self.attention_backend,
            "first_stage": bool(self.as_two_stage),
            "num_classes": self.bbox_head.cls_out_channels,
        }
        config = {"type": "DenseEncoder", **(config or {})}
        return build_swappable(config, Encoder, "model.encoder", defaults)

    def decoder_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """A copy of a decoder's config with the cross-attention that the settings choose."""
        config = copy.deepcopy(dict(config))
        config["layer_cfg"]["cross_attn_cfg"] = attention_config(
            config["layer_cfg"].get("cross_attn_cfg"),
            self.attention_backend,
            self.decoder_attention,
            self.decoder_key_aware,
            setting="decoder_",
        )
        return config

    def check_position_channels(self) -> None:
        """Check that the position embedding has as many channels as a token.

        Raises:
            ValueError: it has not.
        """
        channels = 2 * self.positional_encoding.num_feats
        if channels != self.embed_dims:
            raise ValueError(
                f"model.positional_encoding.num_feats must be {self.embed_dims // 2}, half of the "
                f"encoder's embed_dims {self.embed_dims}, got {self.positional_encoding.num_feats}"
            )

    def init_weights(self) -> None:
        """MMDetection's initialisation, then :meth:`init_own_weights`."""
        super().init_weights()
        self.init_own_weights()

    def init_own_weights(self) -> None:
        """Initialise key-aware attention, and the encoder by its own method."""
        for module in self.modules():
            if isinstance(module, KeyAwareDeformableAttention):
                module.init_weights()
        self.encoder.init_own_weights()

    # -- training and testing ---------------------------------------------

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """The losses of the detector and of its encoder, by name.

        Args:
            batch_inputs: (B, 3, height, width), normalised and padded.
            batch_data_samples: with ground truth.

        Raises:
            ValueError: encoder and head have a loss of the same name.
        """
        samples = self.training_samples(batch_data_samples)
        targets = batches.targets_of(samples)
        read = targets if self.encoder.needs_boxes else None
        encoded = self.encode(self.extract_feat(batch_inputs), *batches.sizes_of(samples), read)
        queries = self.prepare_queries(encoded, samples)
        decoded = self.decode(queries, encoded, record=self.encoder.learns_from_decoder)
        losses, extra = in_float32(
            lambda records: self._losses(*records, samples, targets),
            (encoded, queries, decoded),
            self.bbox_head,
        )
        clash = losses.keys() & extra.keys()
        if clash:
            raise ValueError(f"encoder and head both name a loss {sorted(clash)}")
        return {**losses, **extra}

    def training_samples(self, samples: SampleList) -> SampleList:
        """The batch's data samples, possibly changed for a training step."""
        return samples

    def _losses(
        self,
        encoded: EncoderOutput,
        queries: Queries,
        decoded: Decoded,
        samples: SampleList,
        targets: Targets,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The head's losses and the encoder's."""
        targets = replace(targets, attention_map=decoded.attention_map)
        losses = self.head_loss(queries, decoded, samples)
        return losses, self.encoder.loss(encoded, targets, self.detection_loss(samples))

    def head_loss(
        self, queries: Queries, decoded: Decoded, samples: SampleList
    ) -> dict[str, Tensor]:
        """The losses of ``bbox_head``."""
        losses: dict[str, Tensor] = self.bbox_head.loss(
            **self.head_inputs(queries, decoded), batch_data_samples=samples
        )
        return losses

    def head_inputs(self, queries: Queries, decoded: Decoded) -> dict[str, Any]:
        """Arguments of the head: the decoder's output, in training also the first stage's."""
        inputs = dict(hidden_states=decoded.states, references=decoded.references)
        if not self.training:
            return inputs
        first = queries.proposals
        return dict(
            **inputs,
            enc_outputs_class=None if first is None else first.logits,
            enc_outputs_coord=None if first is None else first.boxes,
        )

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True
    ) -> SampleList:
        """MMDetection's predictions; with ``test_cfg.report_tokens`` also ``token_selection``."""
        samples = batch_data_samples
        report_tokens = bool((self.test_cfg or {}).get("report_tokens", False))
        encoded = self.encode(
            self.extract_feat(batch_inputs), *batches.sizes_of(samples), self._boxes_read(samples)
        )
        queries = self.prepare_queries(encoded, samples)
        decoded = self.decode(queries, encoded, record=report_tokens)
        head, request = self.bbox_head, dict(rescale=rescale, batch_data_samples=samples)
        results = in_float32(
            lambda inputs: head.predict(**inputs, **request),
            self.head_inputs(queries, decoded),
            head,
        )
        samples = self.add_pred_to_datasample(samples, batches.detections_in_float32(results))
        if decoded.attention_map is not None:
            reports = token_reports(encoded, decoded.attention_map)
            for sample, report in zip(samples, reports, strict=True):
                sample.token_selection = report
        return samples

    def forward_transformer(
        self, img_feats: Sequence[Tensor], batch_data_samples: SampleList | None = None
    ) -> dict[str, Any]:
        """MMDetection's name for the three steps; returns the arguments of ``bbox_head``."""
        sizes, read = batches.sizes_of(batch_data_samples), self._boxes_read(batch_data_samples)
        encoded = self.encode(img_feats, *sizes, read)
        queries = self.prepare_queries(encoded, batch_data_samples)
        return self.head_inputs(queries, self.decode(queries, encoded))

    def _boxes_read(self, samples: SampleList | None) -> Targets | None:
        """Annotated boxes of test images, if the encoder reads them; None otherwise."""
        return batches.annotations_of(samples) if self.encoder.needs_boxes else None

    def set_keep_ratio(self, keep_ratio: float | Sequence[float]) -> None:
        """Set the keep ratio, see :meth:`Encoder.set_keep_ratio`."""
        self.encoder.set_keep_ratio(keep_ratio)
