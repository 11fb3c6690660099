"""The contract of an encoder: tokens in, refined memory out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.model import BaseModule, ModuleList
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sparse_encoders.attention import attention_config
from sparse_encoders.contracts import DetectionLoss, DetectorParts, Targets
from sparse_encoders.encoders.layer import EncoderLayer
from sparse_encoders.registry import build_swappable
from sparse_encoders.selectors.base import Selector
from sparse_encoders.selectors.selection import LayerSelection, Selection
from sparse_encoders.tokens import TokenGrid


@dataclass(frozen=True)
class EncoderOutput:
    """The output of an encoder.

    Attributes:
        memory: (B, N, C) refined tokens.
        tokens: the input.
        selection: the selector's output, for its loss; None without a selector.
        layers: indices of the tokens that each layer refined; empty without a selector.
        refined: (B, K, C) refined tokens of each layer, if a loss of the encoder reads them.
        objects: (B, k) int64 indices of the object tokens of each layer of dual attention, among
            the K that the layer refines, highest score first.
    """

    memory: Tensor
    tokens: TokenGrid
    selection: Selection | None = None
    layers: tuple[LayerSelection, ...] = ()
    refined: tuple[Tensor, ...] = ()
    objects: tuple[Tensor, ...] = ()


class Encoder(BaseModule):
    """Base of all encoders.

    Subclasses fill ``self.layers`` and implement :meth:`forward`; those that prune set
    ``self.selector``. The detector sets ``num_levels``, ``first_stage`` and ``num_classes``.

    Args:
        num_layers: encoder layers, at least 1.
        num_levels: feature levels.
        layer_cfg: MMDetection's encoder ``layer_cfg`` (``self_attn_cfg``, ``ffn_cfg``,
            ``norm_cfg``); missing settings take Deformable DETR's values.
        attention_backend: 'auto', 'fused', 'mmcv' or 'torch', see
            :class:`sparse_encoders.attention.DeformableAttention`.
        first_stage: whether the detector lends a first-stage projection.
        num_classes: outputs of classification branches, for encoders with heads of their own.
        num_cp: number of layers, from the first on, with gradient checkpointing, see
            :meth:`run_layer`. As in MMDetection's encoders, 0 and -1 mean none.
        ffn_slice: number of tokens for which the FFN is computed at a time in inference on
            a CPU (:class:`SlicedFFN`); 0: all at once. None: 0 in :class:`DenseEncoder`, whose
            results are MMDetection's bit for bit, 1024 in encoders that prune.

    Raises:
        ValueError: fewer than one layer, a ``layer_cfg`` with another number of levels than
            the detector, or an invalid ``num_cp`` or ``ffn_slice``.
    """

    default_ffn_slice = 0

    def __init__(
        self,
        num_layers: int = 6,
        num_levels: int = 4,
        layer_cfg: dict[str, Any] | None = None,
        attention_backend: str = "auto",
        first_stage: bool = True,
        num_classes: int | None = None,
        num_cp: int = 0,
        ffn_slice: int | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if num_layers < 1:
            raise ValueError(f"encoder.num_layers must be at least 1, got {num_layers}")
        if type(num_cp) is not int or not -1 <= num_cp <= num_layers:
            raise ValueError(
                "encoder.num_cp must be the number of checkpointed layers, an integer from -1 to "
                f"encoder.num_layers={num_layers}, got {num_cp!r}"
            )
        if ffn_slice is None:
            ffn_slice = self.default_ffn_slice
        if type(ffn_slice) is not int or ffn_slice < 0:
            raise ValueError(
                "encoder.ffn_slice must be a number of tokens, 0 for all at once or None for the "
                f"encoder's default, got {ffn_slice!r}"
            )
        self.num_layers = num_layers
        self.num_cp = num_cp
        self.num_levels = num_levels
        self.first_stage = first_stage
        self.num_classes = num_classes
        self.attention_backend = attention_backend
        self.layer_cfg = complete_layer_cfg(layer_cfg, num_levels)
        self.layer_cfg["ffn_cfg"]["slice_tokens"] = ffn_slice
        self.embed_dims: int = self.layer_cfg["self_attn_cfg"]["embed_dims"]
        self.layers = ModuleList()
        self.selector: Selector | None = None

    def build_layers(self, layer_class: type[EncoderLayer], **layer_settings: Any) -> ModuleList:
        """``num_layers`` layers of a class, built with ``layer_cfg`` and ``layer_settings``."""
        return ModuleList(
            layer_class(**self.layer_config(), **layer_settings) for _ in range(self.num_layers)
        )

    def layer_config(
        self, attention: str = "plain", key_aware: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """A copy of ``layer_cfg`` with the attention to build, see :func:`attention_config`."""
        config = copy.deepcopy(self.layer_cfg)
        config["self_attn_cfg"] = attention_config(
            config["self_attn_cfg"], self.attention_backend, attention, key_aware
        )
        return config

    def build_selector(self, selector: dict[str, Any]) -> Selector:
        """Build a selector from its config, with the encoder's layers, levels and channels."""
        names = ("num_layers", "num_levels", "embed_dims", "first_stage")
        settings = {name: getattr(self, name) for name in names}
        return build_swappable(selector, Selector, "encoder.selector", settings)

    def run_layer(self, index: int, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """``call(*args, **kwargs)``, with gradient checkpointing if ``index < num_cp``.

        An encoder's :meth:`forward` runs every layer (or part of one) through this method. A
        checkpointed layer (Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016) keeps
        only its inputs while gradients are enabled, and ``call`` runs a second time, on the same
        random state, in the backward pass. Its values are the same as without checkpointing.

        Args:
            index: encoder layer, from 0.
            call: a module or function whose result depends on its arguments and parameters only.
            *args: of ``call``.
            **kwargs: of ``call``.
        """
        if index < self.num_cp and torch.is_grad_enabled():
            return checkpoint(call, *args, use_reentrant=False, **kwargs)
        return call(*args, **kwargs)

    def init_own_weights(self) -> None:
        """Initialise parameters for which Xavier's distribution is not right.

        :meth:`EncoderDetector.init_weights` calls it after every matrix got that distribution.
        """

    def forward(self, tokens: TokenGrid, detector: DetectorParts) -> EncoderOutput:
        """Refine the tokens of a batch; the method that a new encoder implements.

        :meth:`DetectorSteps.encode` calls it once for each batch, in training, at test time and in
        a deployed model. An implementation keeps no tensor on ``self`` and derives every size from
        ``tokens.shapes`` and other values on the host, so that nothing waits for the device.

        Args:
            tokens: B images of N tokens on L levels with C channels; floating point, under
                autocast in half precision too. Padding is masked, not removed.
            detector: what the detector lends for this call.

        Returns:
            The record whose ``memory`` is (B, N, C), one row for each token that came in, in the
            same order, for the first stage and the decoder. An encoder that prunes leaves the rows
            of tokens that no layer refined as they were, except for a background embedding.

        Raises:
            ValueError: the tokens have another number of levels than the encoder was built for, or
                the detector lends nothing that a part of the encoder needs.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement forward()")

    def loss(
        self,
        output: EncoderOutput,
        targets: Targets,
        detection_loss: DetectionLoss | None = None,
    ) -> dict[str, Tensor]:
        """Losses that the encoder and its selector add to the detector's.

        The detector calls it once for each training step, outside of autocast.

        Args:
            output: what :meth:`forward` returned for this batch, in float32.
            targets: with ``attention_map`` if :attr:`learns_from_decoder`.
            detection_loss: the detector's, for encoders with heads of their own.

        Returns:
            Scalars by name. MMEngine sums those whose name contains 'loss'; a name must not be one
            of the detector's head. Empty for an encoder without a selector.

        Raises:
            ValueError: the detector did not record or lend what a loss needs.
        """
        if self.selector is None or output.selection is None:
            return {}
        if self.training:
            self.selector.note_training()
        return self.selector.loss(output.selection, output.tokens, targets)

    def refined_levels(self, layer: int) -> range:
        """Levels whose tokens ``layer`` (from 0) refines if there is no selector."""
        return range(self.num_levels)

    def check_levels(self, tokens: TokenGrid) -> None:
        """Raise a ValueError if the tokens have another number of levels than ``num_levels``."""
        if tokens.num_levels != self.num_levels:
            raise ValueError(
                f"encoder.num_levels is {self.num_levels}, got {tokens.num_levels} feature levels"
            )

    @property
    def learns_from_decoder(self) -> bool:
        """Whether :meth:`loss` reads ``targets.attention_map``, the decoder attention map."""
        return self.selector is not None and self.selector.learns_from_decoder

    @property
    def needs_boxes(self) -> bool:
        """Whether :meth:`forward` reads the boxes of the images."""
        return self.selector is not None and self.selector.needs_boxes

    def set_keep_ratio(self, keep_ratio: float | Sequence[float], test_only: bool = False) -> None:
        """Set the keep ratio; no weight changes.

        Args:
            keep_ratio: a number, or one for each layer, in (0, 1].
            test_only: set it for testing only and leave that of training.

        Raises:
            ValueError: the encoder has no selector, or a ratio is outside (0, 1].
        """
        if self.selector is None:
            raise ValueError(f"{type(self).__name__} has no selector, so no keep ratio to set")
        self.selector.set_keep_ratio(keep_ratio, test_only)


def complete_layer_cfg(layer_cfg: dict[str, Any] | None, num_levels: int) -> dict[str, Any]:
    """A copy of an MMDetection ``layer_cfg`` with Deformable DETR's defaults filled in."""
    full: dict[str, Any] = copy.deepcopy(dict(layer_cfg or {}))
    # as in MMDetection: a self_attn_cfg without dropout has MMCV's default, 0.1
    dropout = 0.1 if "self_attn_cfg" in full else 0.0
    attention: dict[str, Any] = dict(embed_dims=256, dropout=dropout, num_levels=num_levels)
    attention.update(full.get("self_attn_cfg") or {})
    if attention["num_levels"] != num_levels:
        raise ValueError(
            f"encoder.layer_cfg.self_attn_cfg.num_levels is {attention['num_levels']}, "
            f"the detector has {num_levels} feature levels"
        )
    ffn = dict(embed_dims=attention["embed_dims"], feedforward_channels=2048, ffn_drop=0.0)
    ffn.update(full.get("ffn_cfg") or {})
    return {**full, "self_attn_cfg": attention, "ffn_cfg": ffn}
