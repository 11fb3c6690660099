"""Sparse DETR's encoder (Roh et al., ICLR 2022)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sparse_encoders.contracts import DetectionLoss, Targets
from sparse_encoders.encoders.auxiliary import AuxiliaryHeads
from sparse_encoders.encoders.base import EncoderOutput
from sparse_encoders.encoders.kept_tokens import KeptTokensLayer
from sparse_encoders.encoders.pruning import PruningEncoder
from sparse_encoders.registry import MODELS


@MODELS.register_module()
class SparseDETREncoder(PruningEncoder):
    """Refine only the kept tokens; all tokens, updated by every layer, are attended to.

    Args:
        selector: config of any :class:`Selector`; Sparse DETR's by default.
        auxiliary_heads: detection heads on the kept tokens after every layer but
            the last, in training (section 3.5). They are built where the
            encoder has more than one layer.
        num_classes: outputs of their classification branches; the detector
            sets it.
        **kwargs: see :class:`Encoder`.

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
        """Undo what a detector's initialisation of all encoder weights does to the heads."""
        if self.auxiliary is not None:
            self.auxiliary.init_weights()

    @property
    def returns_refined(self) -> bool:
        """The auxiliary heads read what each layer refined, in training."""
        return self.training and self.auxiliary is not None

    def loss(
        self,
        output: EncoderOutput,
        targets: Targets,
        detection_loss: DetectionLoss | None = None,
    ) -> dict[str, Tensor]:
        """The selector's loss and those of the auxiliary heads."""
        losses = super().loss(output, targets, detection_loss)
        if self.auxiliary is None or not output.refined:
            return losses
        if detection_loss is None:
            raise ValueError(
                "the auxiliary heads need the detector's detection loss, but it lends none; "
                "set encoder.auxiliary_heads=False"
            )
        auxiliary = self.auxiliary.loss(
            output.refined, output.layers, output.tokens, detection_loss
        )
        return {**losses, **auxiliary}
