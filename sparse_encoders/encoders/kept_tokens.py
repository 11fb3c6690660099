"""The layer of encoders that refine only the tokens that a selector keeps."""

from __future__ import annotations

from torch import Tensor

from sparse_encoders.encoders.layer import EncoderLayer
from sparse_encoders.tokens import TokenGrid


class KeptTokensLayer(EncoderLayer):
    """A deformable encoder layer whose queries are the kept tokens and whose values are all tokens.

    Its weights have MMDetection's names, so the checkpoint of a dense encoder fits.
    """

    def forward(
        self,
        query: Tensor,
        query_pos: Tensor,
        reference_points: Tensor,
        value: Tensor,
        tokens: TokenGrid,
    ) -> Tensor:
        """Refine the queries (Sparse DETR, section 3.2).

        Args:
            query: (B, K, C) kept tokens.
            query_pos: (B, K, C) their position embedding.
            reference_points: (B, K, L, 2) their centres.
            value: (B, N, C) all tokens, which they attend to.
            tokens: padding and shapes of the batch.

        Returns:
            (B, K, C).
        """
        attended = self.attend(query, query_pos, reference_points, value, tokens)
        refined: Tensor = self.norms[1](self.ffn(attended))
        return refined

    def attend(
        self,
        query: Tensor,
        query_pos: Tensor,
        reference_points: Tensor,
        value: Tensor,
        tokens: TokenGrid,
    ) -> Tensor:
        """(B, K, C) queries after attention and norm; arguments as :meth:`forward`'s."""
        attended = self.self_attn(
            query=query,
            value=value,
            query_pos=query_pos,
            key_padding_mask=tokens.padding_mask,
            spatial_shapes=tokens.shapes,
            reference_points=reference_points,
        )
        normed: Tensor = self.norms[0](attended)
        return normed
