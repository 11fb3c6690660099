"""Sparse DETR's encoder (Roh et al., ICLR 2022)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sparse_encoders.contracts import DetectionLoss, Targets
from sparse_encoders.encoders.auxiliary import AuxiliaryHeads
from sparse_encoders.encoders.base import EncoderOutput
from sparse_encoders.encoders.layer import KeptTokensLayer
from sparse_encoders.encoders.pruning import PruningEncoder
from sparse_encoders.registry import MODELS


@MODELS.register_module()
class SparseDETREncoder(PruningEncoder):
    """Refine only the kept tokens, which attend to all tokens, updated after every layer.

    Args:
        selector: config of any :class:`Selector`; Sparse DETR's by default.
        auxiliary_heads: detection heads on the kept tokens after every layer but the last, for
            training (:class:`AuxiliaryHeads`). An encoder with one layer has none.
        *args, **kwargs: see :class:`Encoder`.

    Raises:
        ValueError: auxiliary heads without ``num_classes``.
    """

    def __init__(
        self,
        *args: Any,
        selector: dict[str, Any] | None = None,
        auxiliary_heads: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.layers = self.build_layers(KeptTokensLayer)
        self.selector = self.build_selector(
            {"type": "DecoderAttentionSelector", **(selector or {})}
        )
        self.auxiliary: AuxiliaryHeads | None = None
        if auxiliary_heads and self.num_layers > 1:
            if self.num_classes is None:
                raise ValueError(
                    "encoder.auxiliary_heads=True needs encoder.num_classes; set it, or "
                    "auxiliary_heads=False"
                )
            self.auxiliary = AuxiliaryHeads(self.num_layers - 1, self.embed_dims, self.num_classes)

    def init_own_weights(self) -> None:
        """Initialise the auxiliary heads again, after the detector initialised all weights."""
        if self.auxiliary is not None:
            self.auxiliary.init_weights()

    @property
    def returns_refined(self) -> bool:
        """True in training with auxiliary heads, which read each layer's refined tokens."""
        return self.training and self.auxiliary is not None

    def loss(
        self,
        output: EncoderOutput,
        targets: Targets,
        detection_loss: DetectionLoss | None = None,
    ) -> dict[str, Tensor]:
        """The losses of the selector and of the auxiliary heads; see :meth:`Encoder.loss`."""
        losses = super().loss(output, targets, detection_loss)
        if self.auxiliary is None or not output.refined:
            return losses
        if detection_loss is None:
            raise ValueError(
                "the auxiliary heads need the detector's detection loss, which this detector does "
                "not lend; set encoder.auxiliary_heads=False"
            )
        read = (output.refined, output.layers, output.tokens)
        return {**losses, **self.auxiliary.loss(*read, detection_loss)}
