"""Sparse DETR's token selector (Roh et al., ICLR 2022, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sparse_encoders.contracts import DetectorParts, Targets
from sparse_encoders.registry import MODELS
from sparse_encoders.selectors.base import Selector
from sparse_encoders.selectors.projection import TokenProjection, project_tokens
from sparse_encoders.selectors.score_mlp import ScoreMLP
from sparse_encoders.selectors.selection import Selection
from sparse_encoders.supervision.decoder_attention import attention_labels, token_selection_loss
from sparse_encoders.tokens import TokenGrid


@MODELS.register_module()
class DecoderAttentionSelector(Selector):
    """Scores that learn which tokens the decoder will look at.

    z = LN(Linear(x + p)) is the detector's own first-stage projection where it
    has one; one score MLP over the tokens of all levels gives a logit each. All
    encoder layers keep the same tokens. In training the tokens that the
    decoder's cross-attention read most are the positives.

    Args:
        num_layers, num_levels, embed_dims: set by the encoder.
        keep_ratio: share of the valid tokens that is kept (rho in the paper), or
            one for each layer.
        cascade: True keeps fewer tokens in later layers, as Focus-DETR does.
        count, test_count: see :class:`Selector`; without a cascade both ways keep the
            same tokens.
        train_keep_ratio: see :class:`Selector`.
        loss_weight: weight of the loss, 1 in the paper.
        first_stage: set by the detector: True where it lends its projection,
            False gives the selector a projection of its own.

    Raises:
        ValueError: a negative ``loss_weight``, or what :class:`Selector` refuses.
    """

    learns_from_decoder = True

    def __init__(
        self,
        num_layers: int = 6,
        num_levels: int = 4,
        embed_dims: int = 256,
        keep_ratio: float | Sequence[float] = 0.3,
        cascade: bool | None = None,
        count: str = "batch",
        loss_weight: float = 1.0,
        first_stage: bool = True,
        test_count: str = "image",
        train_keep_ratio: Sequence[float] | None = None,
    ) -> None:
        super().__init__(
            num_layers,
            num_levels,
            embed_dims,
            keep_ratio,
            cascade,
            count,
            first_stage,
            test_count,
            train_keep_ratio,
        )
        if loss_weight < 0:
            raise ValueError(f"loss_weight must not be negative, got {loss_weight}")
        self.loss_weight = loss_weight
        self.score_mlp = ScoreMLP(embed_dims)
        self.projection = None if first_stage else TokenProjection(embed_dims)

    def score(self, tokens: TokenGrid, detector: DetectorParts) -> Tensor:
        """(B, N) logits."""
        z = project_tokens(tokens, self.projection, detector.projection, "DecoderAttentionSelector")
        logits: Tensor = self.score_mlp(z)
        return logits

    def loss(self, selection: Selection, tokens: TokenGrid, targets: Targets) -> dict[str, Tensor]:
        """``loss_decoder_attention``, a scalar.

        What is ranked together is labelled together: the most attended tokens of each
        group of levels are its positives, as many as the image has foreground tokens there.
        """
        if targets.attention_map is None:
            raise ValueError(
                "DecoderAttentionSelector learns from the decoder's cross-attention, but the "
                "detector recorded none; use one of this package's detectors"
            )
        loss = selection.logits.new_zeros(()).float()
        for group in selection.groups:
            part, padding = tokens.tokens_of(group.levels), tokens.padding_of(group.levels)
            attention, logits = targets.attention_map[:, part], selection.logits[:, part]
            labels = attention_labels(
                attention, group.num_foreground, group.max_foreground, padding
            )
            # a mean over all tokens
            share = logits.shape[1] / tokens.num_tokens
            loss = loss + share * token_selection_loss(logits, labels, padding)
        return {"loss_decoder_attention": self.loss_weight * loss}
