"""Focus-DETR's encoder with dual attention (Zheng et al., ICCV 2023, Algorithm 1)."""

from __future__ import annotations

from typing import Any

import torch
from mmcv.cnn.bricks.transformer import MultiheadAttention
from torch import Tensor, nn

from sparse_encoders.autocast import without_gradient
from sparse_encoders.contracts import CategoryHead, DetectorParts
from sparse_encoders.encoders.background import BACKGROUNDS, BackgroundEmbedding
from sparse_encoders.encoders.base import Encoder, EncoderOutput
from sparse_encoders.encoders.kept_tokens import KeptTokensLayer
from sparse_encoders.registry import MODELS
from sparse_encoders.tokens import TokenGrid

VALUES = ("input", "updated")
OBJECT_SCORES = ("logit", "probability")


class ObjectAttention(nn.Module):
    """Self-attention among the best-scored object tokens (Algorithm 1, lines 4 to 9).

    Args:
        embed_dims: channels C.
        num_heads: attention heads.
        num_tokens: object tokens, 300 in the paper; fewer where fewer are kept.
        dropout: of the attention and its output.
    """

    def __init__(
        self, embed_dims: int, num_heads: int = 8, num_tokens: int = 300, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.attention = MultiheadAttention(
            embed_dims, num_heads, attn_drop=dropout, proj_drop=dropout, batch_first=True
        )
        self.norm = nn.LayerNorm(embed_dims)

    def forward(
        self, kept: Tensor, positions: Tensor, scores: Tensor, eligible: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Enhance the object tokens among the kept ones.

        Args:
            kept: (B, K, C) kept tokens.
            positions: (B, K, C) their position embedding.
            scores: (B, K) object scores.
            eligible: (B, K) bool; the others neither attend nor are attended to.

        Returns:
            (B, K, C) kept tokens with the objects among them replaced, and
            (B, k) where the objects stand in K, best first.
        """
        count = min(self.num_tokens, kept.shape[1])
        index = scores.masked_fill(~eligible, -torch.inf).topk(count, dim=1).indices
        wide = index.unsqueeze(-1).expand(-1, -1, kept.shape[-1])
        objects, usable = kept.gather(1, wide), eligible.gather(1, index)
        # an image always keeps a token, so no row of the attention is masked whole
        position = positions.gather(1, wide)
        enhanced = self.attention(
            objects, query_pos=position, key_pos=position, key_padding_mask=~usable
        )
        enhanced = torch.where(usable.unsqueeze(-1), self.norm(enhanced), objects)
        return kept.scatter(1, wide, enhanced.to(kept.dtype)), index


class DualAttentionLayer(KeptTokensLayer):
    """A layer on the kept tokens, before which the objects among them attend to each other."""

    def __init__(self, *args: Any, object_attention: dict[str, Any] | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.object_attention = (
            None
            if object_attention is None
            else ObjectAttention(self.embed_dims, **object_attention)
        )

    def enhance(
        self, query: Tensor, query_pos: Tensor, object_scores: Tensor, taken: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Lines 4 to 9 of Algorithm 1; the rest of it is :meth:`forward`.

        Args:
            query: (B, K, C) kept tokens.
            query_pos: (B, K, C) their position embedding.
            object_scores: (B, K).
            taken: (B, K) bool, which tokens may be object tokens.

        Returns:
            (B, K, C) tokens, and (B, k) where the objects among them stand, best first.
        """
        assert self.object_attention is not None
        enhanced: tuple[Tensor, Tensor] = self.object_attention(
            query, query_pos, object_scores, taken
        )
        return enhanced


@MODELS.register_module()
class DualAttentionEncoder(Encoder):
    """Refine the kept tokens; let the objects among them attend to each other.

    The defaults are the released code's, which trained weights expect; the
    paper's way is ``values='updated'``, ``object_score='probability'`` here and
    ``count='image'``, ``intervals='overlapping'`` in the selector. At test time every
    image keeps its own count either way (``test_count`` in the selector).

    Args:
        selector: config of any :class:`Selector`; Focus-DETR's by default.
        values: what deformable attention samples in every layer: 'input', the
            encoder's input features (released), or 'updated', the tokens as
            refined so far (Algorithm 1, line 10).
        object_score: 'logit', the product of raw foreground and category logits
            (released), or 'probability', of their sigmoids (equation 3).
        num_object_tokens: tokens that attend to each other, 300 in the paper.
        dual_attention: False leaves the self-attention out (Table 4's ablation).
        background_embedding: what is added to the memory in the end, see
            :class:`BackgroundEmbedding`: 'released' (Salience DETR), where the last layer
            keeps nothing; 'never_kept', where no layer does; None, nowhere.
        background_cells: rows and columns of its tables.
        **kwargs: see :class:`Encoder`.

    Raises:
        ValueError: an unknown switch, fewer than one object token.
    """

    def __init__(
        self,
        *args: Any,
        selector: dict[str, Any] | None = None,
        values: str = "input",
        object_score: str = "logit",
        num_object_tokens: int = 300,
        dual_attention: bool = True,
        background_embedding: str | None = None,
        background_cells: int = 200,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        for name, got, accepted in (
            ("values", values, VALUES),
            ("object_score", object_score, OBJECT_SCORES),
            ("background_embedding", background_embedding, BACKGROUNDS),
        ):
            if got not in accepted:
                raise ValueError(f"encoder.{name} must be one of {accepted}, got {got!r}")
        if num_object_tokens < 1:
            raise ValueError(
                f"encoder.num_object_tokens must be at least 1, got {num_object_tokens}"
            )
        self.values = values
        self.object_score = object_score
        self.dual_attention = dual_attention
        attention = self.layer_cfg["self_attn_cfg"]
        self.layers = self.build_layers(
            DualAttentionLayer,
            object_attention=dict(
                num_heads=attention.get("num_heads", 8),
                num_tokens=num_object_tokens,
                dropout=attention["dropout"],
            )
            if dual_attention
            else None,
        )
        self.selector = self.build_selector({"type": "FocusTokenSelector", **(selector or {})})
        self.background: BackgroundEmbedding | None = None
        if background_embedding is not None:
            self.background = BackgroundEmbedding(
                self.embed_dims, background_cells, background_embedding
            )

    def init_own_weights(self) -> None:
        """Undo what a detector's initialisation of all encoder weights does to the tables."""
        if self.background is not None:
            self.background.init_weights()

    def forward(self, tokens: TokenGrid, detector: DetectorParts) -> EncoderOutput:
        """Select once, then refine layer by layer (Algorithm 1)."""
        assert self.selector is not None
        if self.dual_attention and detector.category_head is None:
            raise ValueError(
                "dual attention ranks object tokens by the detector's classification head, but "
                "this detector lends none; set encoder.dual_attention=False"
            )
        selection = self.selector.select(tokens, detector)
        # One ranking: a later layer keeps the first ones of what an earlier layer kept,
        # so the kept tokens are gathered once and each layer takes as many as it needs.
        (group,) = selection.groups
        first = group.layers[0]
        query, query_pos = first.gather(tokens.features), first.gather(tokens.pos_embed)
        points = first.gather(tokens.reference_points.flatten(2)).unflatten(2, (-1, 2))
        foreground = first.gather(selection.scores)
        value = tokens.features
        done: list[Tensor] = []  # tokens that no later layer keeps, latest first
        objects: list[Tensor] = []
        for index, (layer, chosen) in enumerate(zip(self.layers, group.layers, strict=True)):
            count = chosen.size
            done.insert(0, query[:, count:])
            query = query[:, :count]
            places = query_pos[:, :count], points[:, :count]
            enhanced = query
            if self.dual_attention and detector.category_head is not None:
                head = detector.category_head(index)
                scores = self.object_scores(query, foreground[:, :count], head)
                enhanced, index_of_objects = self.run_layer(
                    index, layer.enhance, query, places[0], scores, chosen.taken
                )
                objects.append(index_of_objects)
            refined = self.run_layer(index, layer, enhanced, *places, value, tokens)
            # an image writes back what it keeps; the rest it only carried along
            query = chosen.where(refined.to(query.dtype), query)
            if self.values == "updated" and index + 1 < self.num_layers:
                value = first.scatter(tokens.features, torch.cat([query, *done], 1))
        memory = first.scatter(tokens.features, torch.cat([query, *done], 1))
        if self.background is not None:
            memory = self.background(memory, tokens, group.layers)
        return EncoderOutput(memory, tokens, selection, group.layers, objects=tuple(objects))

    @without_gradient
    def object_scores(self, kept: Tensor, foreground: Tensor, head: CategoryHead) -> Tensor:
        """(B, K) foreground times best category score (equation 3).

        It only ranks, so no gradient passes.

        Args:
            kept: (B, K, C) kept tokens.
            foreground: (B, K) their foreground scores.
            head: classification head, (B, K, C) to (B, K, classes).
        """
        category = head(kept).amax(-1)
        if self.object_score == "probability":
            return foreground.sigmoid() * category.sigmoid()
        return foreground * category
