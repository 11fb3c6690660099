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
from sparse_encoders.detectors.batches import annotations_of, sizes_of, targets_of, token_reports
from sparse_encoders.detectors.records import Decoded, Queries
from sparse_encoders.detectors.steps import DetectorSteps
from sparse_encoders.encoders.base import Encoder, EncoderOutput
from sparse_encoders.registry import build_swappable

Losses = dict[str, Tensor]


class EncoderDetector(DetectorSteps):
    """Base of all detectors here; a detector lists it before MMDetection's class in its bases.

    A batch goes through the three steps of :class:`DetectorSteps`, then through MMDetection's head.
    A detector builds its layers in ``_init_layers``, with :meth:`build_encoder` and
    :meth:`decoder_config`; data preprocessor, backbone, neck and heads are MMDetection's.

    Args:
        attention_backend: 'auto', 'fused', 'mmcv' or 'torch', for encoder and decoder.
        decoder_attention: 'plain', or 'key_aware' (Lite DETR, section 3.4) in the
            decoder's cross-attention; the encoder has a separate setting.
        decoder_key_aware: settings of key-aware attention, see :class:`LiteDETREncoder`.
        keep_ratio: in ``test_cfg``, keep this share of the tokens at test time
            instead of the one trained with; a number or one for each layer.
        report_tokens: in ``test_cfg``, True adds the kept tokens and the decoder attention map
            to the data samples (``token_selection``), for the metrics of
            :mod:`sparse_encoders.evaluation`.

    Raises:
        ValueError: ``max_per_img`` is larger than queries times classes, the position embedding has
            not as many channels as a token, or a setting of encoder or attention is invalid.
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
        if 2 * self.positional_encoding.num_feats != self.embed_dims:
            raise ValueError(
                f"model.positional_encoding.num_feats must be {self.embed_dims // 2}, half of the "
                f"encoder's embed_dims {self.embed_dims}, got {self.positional_encoding.num_feats}"
            )

    def build_encoder(self, config: dict[str, Any] | None) -> Encoder:
        """The encoder of a config; without a ``type`` it is :class:`DenseEncoder`."""
        defaults = dict(
            num_levels=self.num_feature_levels,
            attention_backend=self.attention_backend,
            first_stage=bool(self.as_two_stage),
            num_classes=self.bbox_head.cls_out_channels,
        )
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

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> Losses:
        """The losses of the detector and of its encoder, by name.

        Args:
            batch_inputs: (B, 3, height, width), normalised and padded.
            batch_data_samples: with ground truth.

        Raises:
            ValueError: encoder and head have a loss of the same name.
        """
        samples = self.training_samples(batch_data_samples)
        targets = targets_of(samples)

        def losses_of(records: tuple[EncoderOutput, Queries, Decoded]) -> tuple[Losses, Losses]:
            encoded, queries, decoded = records
            supervision = replace(targets, attention_map=decoded.attention_map)
            of_head = self.head_loss(queries, decoded, samples)
            return of_head, self.encoder.loss(encoded, supervision, self.detection_loss(samples))

        records = self.run_steps(
            self.extract_feat(batch_inputs), samples, targets, self.encoder.learns_from_decoder
        )
        losses, extra = in_float32(losses_of, records, self.bbox_head)
        clash = losses.keys() & extra.keys()
        if clash:
            raise ValueError(f"encoder and head both name a loss {sorted(clash)}")
        return {**losses, **extra}

    def training_samples(self, samples: SampleList) -> SampleList:
        """The batch's data samples, possibly changed for a training step."""
        return samples

    def run_steps(
        self,
        features: Sequence[Tensor],
        samples: SampleList | None,
        targets: Targets | None = None,
        record: bool = False,
    ) -> tuple[EncoderOutput, Queries, Decoded]:
        """The three steps on a batch; without ``targets`` an encoder reads the annotations."""
        if not self.encoder.needs_boxes:
            targets = None
        elif targets is None:
            targets = annotations_of(samples)
        encoded = self.encode(features, *sizes_of(samples), targets)
        queries = self.prepare_queries(encoded, samples)
        return encoded, queries, self.decode(queries, encoded, record)

    def head_loss(self, queries: Queries, decoded: Decoded, samples: SampleList) -> Losses:
        """The losses of ``bbox_head``."""
        losses: Losses = self.bbox_head.loss(
            **self.head_inputs(queries, decoded), batch_data_samples=samples
        )
        return losses

    def head_inputs(self, queries: Queries, decoded: Decoded) -> dict[str, Any]:
        """Arguments of the head: the decoder's output, in training also the first stage's."""
        inputs: dict[str, Any] = dict(hidden_states=decoded.states, references=decoded.references)
        if self.training:
            first = queries.proposals
            inputs["enc_outputs_class"] = None if first is None else first.logits
            inputs["enc_outputs_coord"] = None if first is None else first.boxes
        return inputs

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True
    ) -> SampleList:
        """MMDetection's predictions; with ``test_cfg.report_tokens`` also ``token_selection``."""
        samples, head = batch_data_samples, self.bbox_head
        encoded, queries, decoded = self.run_steps(
            self.extract_feat(batch_inputs),
            samples,
            record=bool((self.test_cfg or {}).get("report_tokens", False)),
        )
        results = in_float32(
            lambda inputs: head.predict(**inputs, rescale=rescale, batch_data_samples=samples),
            self.head_inputs(queries, decoded),
            head,
        )
        for each in results:  # metrics convert them to NumPy arrays, which have no bfloat16
            each.bboxes, each.scores = each.bboxes.float(), each.scores.float()
        samples = self.add_pred_to_datasample(samples, results)
        if decoded.attention_map is not None:
            reports = token_reports(encoded, decoded.attention_map)
            for sample, report in zip(samples, reports, strict=True):
                sample.token_selection = report
        return samples

    def forward_transformer(
        self, img_feats: Sequence[Tensor], batch_data_samples: SampleList | None = None
    ) -> dict[str, Any]:
        """MMDetection's name for the three steps; returns the arguments of ``bbox_head``."""
        _, queries, decoded = self.run_steps(img_feats, batch_data_samples)
        return self.head_inputs(queries, decoded)

    def set_keep_ratio(self, keep_ratio: float | Sequence[float]) -> None:
        """Set the keep ratio, see :meth:`Encoder.set_keep_ratio`."""
        self.encoder.set_keep_ratio(keep_ratio)
