"""Focus-DETR's encoder with dual attention (Zheng et al., ICCV 2023, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn.bricks.transformer import MultiheadAttention
from torch import Tensor, nn
from torch.nn import functional as F

from sparse_encoders.autocast import without_gradient
from sparse_encoders.contracts import CategoryHead
from sparse_encoders.encoders.background import BACKGROUNDS, BackgroundEmbedding
from sparse_encoders.encoders.layer import KeptTokensLayer
from sparse_encoders.encoders.memory import Rows
from sparse_encoders.encoders.pruning import Batch, PruningEncoder, Refined
from sparse_encoders.registry import MODELS
from sparse_encoders.selectors.rows import gather_rows, scatter_rows
from sparse_encoders.selectors.selection import LayerSelection
from sparse_encoders.shapes import at_most, split_dim
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
        self, kept: Tensor, pos_embed: Tensor, scores: Tensor, eligible: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Let the kept tokens with the highest object scores attend to each other.

        Args:
            kept: (B, K, C) kept tokens.
            pos_embed: (B, K, C) their position embedding.
            scores: (B, K) object scores.
            eligible: (B, K) bool, False = never an object token: it is left unchanged and masked
                in the attention. None: all are eligible.

        Returns:
            (B, K, C) kept tokens with the object tokens replaced, and (B, k) int64 indices of the
            object tokens among the K, highest score first.
        """
        count = at_most(kept.shape[1], self.num_tokens)
        if eligible is not None:
            scores = scores.masked_fill(~eligible, -torch.inf)
        index = scores.topk(count, dim=1).indices
        objects = gather_rows(kept, index)
        # every image has at least one eligible token, so no row of the attention is all masked
        usable = None if eligible is None else eligible.gather(1, index)
        enhanced = self.norm(self._attend(objects, gather_rows(pos_embed, index), usable))
        if usable is not None:
            enhanced = torch.where(usable.unsqueeze(-1), enhanced, objects)
        return scatter_rows(kept, index, enhanced.to(kept.dtype)), index

    def _attend(self, objects: Tensor, pos_embed: Tensor, usable: Tensor | None) -> Tensor:
        """(B, k, C): what ``self.attention`` computes, by ``scaled_dot_product_attention``."""
        module, inner = self.attention, self.attention.attn
        # query and key are projected from the same tokens
        split = 2 * inner.embed_dim
        weight, bias = inner.in_proj_weight, inner.in_proj_bias
        query, key = F.linear(objects + pos_embed, weight[:split], bias[:split]).chunk(2, -1)
        value = F.linear(objects, weight[split:], bias[split:])
        heads = (inner.num_heads, inner.head_dim)
        query, key, value = (split_dim(x, -1, heads).transpose(1, 2) for x in (query, key, value))
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if usable is None else usable[:, None, None],
            dropout_p=inner.dropout if self.training else 0.0,
        )
        attended = inner.out_proj(attended.transpose(1, 2).flatten(2))
        out: Tensor = objects + module.dropout_layer(module.proj_drop(attended))
        return out


class DualAttentionLayer(KeptTokensLayer):
    """A layer on the kept tokens, with self-attention among the object tokens before it."""

    def __init__(self, *args: Any, object_attention: dict[str, Any] | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.object_attention: ObjectAttention | None = None
        if object_attention is not None:
            self.object_attention = ObjectAttention(self.embed_dims, **object_attention)


@MODELS.register_module()
class DualAttentionEncoder(PruningEncoder):
    """Refine the kept tokens, with self-attention among the object tokens in every layer.

    The defaults follow the released code, with which the published weights were trained. The
    paper describes ``values='updated'``, ``object_score='probability'`` here and
    ``count='image'``, ``intervals='overlapping'`` in the selector. At test time each image keeps
    its own number of tokens with either (``test_count`` in the selector).

    Args:
        selector: config of any :class:`Selector`; Focus-DETR's by default.
        values: what deformable attention samples in every layer: 'input', the encoder's input
            (released), or 'updated', the tokens as refined so far (Algorithm 1, line 10).
        object_score: 'logit', the product of raw foreground and category logits (released), or
            'probability', of their sigmoids (equation 3).
        num_object_tokens: tokens that attend to each other, 300 in the paper.
        dual_attention: False leaves the self-attention out (Table 4's ablation).
        background_embedding: which tokens get a :class:`BackgroundEmbedding` after the last
            layer, 'released' (Salience DETR) or 'never_kept'; None: no tokens.
        background_cells: entries of its tables for rows and for columns.
        *args, **kwargs: see :class:`Encoder`.

    Raises:
        ValueError: an unknown value of a setting, or fewer than one object token.
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
        attention = self.layer_cfg["self_attn_cfg"]
        objects = dict(
            num_heads=attention.get("num_heads", 8),
            num_tokens=num_object_tokens,
            dropout=attention["dropout"],
        )
        self.layers = self.build_layers(
            DualAttentionLayer, object_attention=objects if dual_attention else None
        )
        self.selector = self.build_selector({"type": "FocusTokenSelector", **(selector or {})})
        self.background: BackgroundEmbedding | None = None
        if background_embedding is not None:
            self.background = BackgroundEmbedding(
                self.embed_dims, background_cells, background_embedding
            )

    def init_own_weights(self) -> None:
        """Initialise the tables of the background embedding again, as released."""
        if self.background is not None:
            self.background.init_weights()

    def refine(self, index: int, rows: Rows, value: Tensor, batch: Batch) -> Refined:
        """Lines 4 to 12 of Algorithm 1: attention among objects, then the layer."""
        query, objects = rows.memory, None
        attention = self.layers[index].object_attention
        if attention is not None:
            scores = self._object_scores(index, rows, batch)
            eligible = None if rows.chosen.all_kept else rows.chosen.taken
            query, objects = self.run_layer(
                index, attention, query, rows.pos_embed, scores, eligible
            )
        return Refined(self.call_layer(index, rows, query, value, batch.tokens), objects)

    def _object_scores(self, index: int, rows: Rows, batch: Batch) -> Tensor:
        """(B, K) object scores of the rows, by the classification head that the detector lends."""
        assert batch.selection is not None
        if batch.detector.category_head is None:
            raise ValueError(
                "dual attention ranks object tokens by the detector's classification head, but "
                "this detector does not lend one; set encoder.dual_attention=False"
            )
        foreground = rows.chosen.gather(batch.selection.scores)
        return self.object_scores(rows.memory, foreground, batch.detector.category_head(index))

    def finish(self, memory: Tensor, tokens: TokenGrid, layers: Sequence[LayerSelection]) -> Tensor:
        """Add the background embedding, if the config asks for one."""
        return memory if self.background is None else self.background(memory, tokens, layers)

    @without_gradient
    def object_scores(self, kept: Tensor, foreground: Tensor, head: CategoryHead) -> Tensor:
        """(B, K) foreground score times highest category score (equation 3), for ranking only.

        ``kept`` are (B, K, C) tokens with (B, K) foreground scores, ``head`` gives their logits.
        """
        category = head(kept).amax(-1)
        if self.object_score == "probability":
            return foreground.sigmoid() * category.sigmoid()
        return foreground * category
