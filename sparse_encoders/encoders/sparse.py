"""Sparse DETR's encoder (Roh et al., ICLR 2022)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sparse_encoders.contracts import DetectionLoss, DetectorParts, Targets
from sparse_encoders.encoders.auxiliary import AuxiliaryHeads
from sparse_encoders.encoders.base import Encoder, EncoderOutput
from sparse_encoders.encoders.kept_tokens import KeptTokensLayer
from sparse_encoders.registry import MODELS
from sparse_encoders.tokens import TokenGrid


@MODELS.register_module()
class SparseDETREncoder(Encoder):
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

    def forward(self, tokens: TokenGrid, detector: DetectorParts) -> EncoderOutput:
        """Select once, then refine the same tokens layer by layer.

        An image with fewer kept tokens than the batch's largest carries others
        along as queries, and writes back its own only.
        """
        assert self.selector is not None
        selection = self.selector.select(tokens, detector)
        # one ranking: a later layer keeps the first ones of what an earlier layer kept
        (group,) = selection.groups
        first = group.layers[0]
        query, position = first.gather(tokens.features), first.gather(tokens.pos_embed)
        points = first.gather(tokens.reference_points.flatten(2)).unflatten(2, (-1, 2))
        memory, refined = tokens.features, []
        for index, (layer, chosen) in enumerate(zip(self.layers, group.layers, strict=True)):
            count = chosen.size  # shrinks where the selector cascades
            places = position[:, :count], points[:, :count]
            query = self.run_layer(index, layer, query[:, :count], *places, memory, tokens)
            memory = chosen.scatter_kept(memory, query.to(memory.dtype))
            refined.append(query)
        kept = tuple(refined) if self.training and self.auxiliary is not None else ()
        return EncoderOutput(memory, tokens, selection, group.layers, kept)

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
