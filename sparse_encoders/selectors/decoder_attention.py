"""Sparse DETR's token selector (Roh et al., ICLR 2022, section 3.3)."""

from __future__ import annotations

from torch import Tensor

from sparse_encoders.contracts import DetectorParts, Targets
from sparse_encoders.registry import MODELS
from sparse_encoders.selectors.learned import LearnedSelector
from sparse_encoders.selectors.selection import Selection
from sparse_encoders.supervision.decoder_attention import attention_labels, token_selection_loss
from sparse_encoders.tokens import TokenGrid


@MODELS.register_module()
class DecoderAttentionSelector(LearnedSelector):
    """Scores trained to predict the decoder attention map.

    One score MLP over the tokens of all levels gives a logit each; all encoder layers keep the
    same tokens. In training the tokens with the largest cross-attention weights of the decoder are
    the positives.

    Args:
        *args, **kwargs: see :class:`LearnedSelector`. ``keep_ratio`` is rho in the paper,
            ``loss_weight`` 1; without a cascade both values of ``count`` keep the same tokens.
    """

    learns_from_decoder = True

    def score(self, tokens: TokenGrid, detector: DetectorParts) -> Tensor:
        """(B, N) logits; see :meth:`Selector.score`."""
        logits: Tensor = self.score_mlp(self.project(tokens, detector))
        return logits

    def loss(self, selection: Selection, tokens: TokenGrid, targets: Targets) -> dict[str, Tensor]:
        """``loss_decoder_attention``, a scalar; see :meth:`Selector.loss`.

        Labels are made for each group of levels: the positives are the tokens with the largest
        attention, as many as the image has foreground tokens on these levels.

        Raises:
            ValueError: ``targets`` has no ``attention_map``.
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
