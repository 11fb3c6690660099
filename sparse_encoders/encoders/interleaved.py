"""Lite DETR's interleaved encoder (Li et al., CVPR 2023, section 3.3)."""

from __future__ import annotations

from typing import Any

import torch
from mmcv.cnn.bricks.transformer import FFN
from torch import Tensor, nn

from sparse_encoders.contracts import DetectorParts
from sparse_encoders.encoders.base import Encoder, EncoderOutput
from sparse_encoders.encoders.layer import EncoderLayer
from sparse_encoders.encoders.schedule import make_schedule
from sparse_encoders.registry import MODELS
from sparse_encoders.selectors.selection import LayerSelection, Selection
from sparse_encoders.tokens import TokenGrid


class InterleavedLayer(EncoderLayer):
    """A deformable encoder layer from some tokens to all.

    The names of attention, FFN and norms are MMDetection's, so that a dense
    checkpoint initialises them.

    Args:
        small_low_level_ffn: low-level tokens have an FFN and a norm of their own,
            with as many hidden channels as a token has.
    """

    def __init__(self, *args: Any, small_low_level_ffn: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.low_level_ffn: nn.Module | None = None
        self.low_level_norm: nn.Module | None = None
        if small_low_level_ffn:
            settings = {**self.ffn_cfg, "feedforward_channels": self.embed_dims}
            self.low_level_ffn = FFN(**settings)
            self.low_level_norm = nn.LayerNorm(self.embed_dims)

    def forward(
        self,
        query: Tensor,
        position: Tensor,
        reference_points: Tensor,
        memory: Tensor,
        tokens: TokenGrid,
        num_low: int,
    ) -> Tensor:
        """Refine K tokens.

        Args:
            query: (B, K, C) the tokens to refine, low-level ones first.
            position: (B, K, C) their position embedding.
            reference_points: (B, K, L, 2) where they stand on each level.
            memory: (B, N, C) all tokens, which they sample.
            tokens: padding and shapes of the batch.
            num_low: how many of the K are low-level.

        Returns:
            (B, K, C).
        """
        query = self.self_attn(
            query=query,
            value=memory,
            query_pos=position,
            key_padding_mask=tokens.padding_mask,
            spatial_shapes=tokens.shapes,
            reference_points=reference_points,
        )
        query = self.norms[0](query)
        if self.low_level_ffn is None or self.low_level_norm is None:
            return self.norms[1](self.ffn(query))
        low, high = query[:, :num_low], query[:, num_low:]
        low = self.low_level_norm(self.low_level_ffn(low))
        return torch.cat([low, self.norms[1](self.ffn(high))], 1)


@MODELS.register_module()
class LiteDETREncoder(Encoder):
    """Refine the few coarse tokens in every layer, the many fine ones once a block.

    In a layer that does not end its block the queries are the tokens of the
    ``high_levels`` coarsest levels and the values all tokens; in the last layer
    of a block every token is a query.

    With a selector, the last layer of a block refines only the tokens kept there:
    the keep ratio of that layer of the low-level tokens and the same of the
    high-level ones (each ranked among its own).

    Args:
        num_layers: encoder layers; None takes the schedule's, or 6.
        schedule: 'H3L1-(2+1)x3' and so on: 3 high levels, 1 low level, 3 blocks of
            2 layers. Instead of ``blocks`` and ``high_levels``.
        blocks: blocks; divides ``num_layers``. 3 by default.
        high_levels: coarse levels refined in every layer; all but one by default.
        small_low_level_ffn: in the last layer of a block the low-level tokens have
            an FFN of their own with C hidden channels (the released models).
        attention: 'plain', or 'key_aware' (section 3.4).
        key_aware: settings of :class:`KeyAwareDeformableAttention`:
            ``same_locations_on_every_level``, ``separate_key_projection``.
        selector: config of any :class:`Selector`, see above.
        prune_high_levels: with a selector, let the other layers refine only the
            kept share of the high-level tokens, too.
        **kwargs: see :class:`Encoder`.

    Raises:
        ValueError: numbers that do not fit each other, an unknown name, settings
            given both ways.
    """

    def __init__(
        self,
        num_layers: int | None = None,
        num_levels: int = 4,
        *args: Any,
        schedule: str | None = None,
        blocks: int | None = None,
        high_levels: int | None = None,
        small_low_level_ffn: bool = False,
        attention: str = "plain",
        key_aware: dict[str, Any] | None = None,
        selector: dict[str, Any] | None = None,
        prune_high_levels: bool = False,
        **kwargs: Any,
    ) -> None:
        plan = make_schedule(num_layers, num_levels, schedule, blocks, high_levels)
        super().__init__(plan.num_layers, num_levels, *args, **kwargs)
        if prune_high_levels and selector is None:
            raise ValueError("encoder.prune_high_levels needs encoder.selector, which is None")
        self.schedule = plan
        self.prune_high_levels = prune_high_levels
        for index in range(self.num_layers):
            small = small_low_level_ffn and self.schedule.refines_all(index)
            config = self.layer_config(attention, key_aware)
            self.layers.append(InterleavedLayer(**config, small_low_level_ffn=small))
        if selector is not None:
            self.selector = self.build_selector(selector)

    def forward(self, tokens: TokenGrid, detector: DetectorParts) -> EncoderOutput:
        """Refine layer by layer; (B, N, C) memory.

        Raises:
            ValueError: tokens of another number of levels.
        """
        if tokens.num_levels != self.num_levels:
            raise ValueError(
                f"encoder.num_levels is {self.num_levels}, got {tokens.num_levels} feature levels"
            )
        split = self.num_levels - self.schedule.high_levels
        num_low = tokens.level_slices[split].start
        selection: Selection | None = None
        chosen: tuple[LayerSelection, ...] = ()
        low_kept = [0] * self.num_layers
        if self.selector is not None:
            # how many tokens go through which FFN must be known before anything runs, so
            # low and high levels are ranked by themselves
            groups = range(split), range(split, self.num_levels)
            selection = self.selector.select(tokens, detector, groups)
            chosen, low_kept = self._chosen(selection, tokens, num_low)
        memory = tokens.features
        for index, layer in enumerate(self.layers):
            everywhere = self.schedule.refines_all(index)
            if chosen and (everywhere or self.prune_high_levels):
                memory = self.run_layer(
                    index, _refine_chosen, layer, memory, tokens, chosen[index], low_kept[index]
                )
            else:
                start = 0 if everywhere else num_low
                memory = self.run_layer(index, _refine_from, layer, memory, tokens, start, num_low)
        return EncoderOutput(memory, tokens, selection, chosen)

    def refined_levels(self, layer: int) -> range:
        """All levels in the last layer of a block, the high (coarse) ones in the others."""
        first = (
            0 if self.schedule.refines_all(layer) else self.num_levels - self.schedule.high_levels
        )
        return range(first, self.num_levels)

    def _chosen(
        self, selection: Selection, tokens: TokenGrid, num_low: int
    ) -> tuple[tuple[LayerSelection, ...], list[int]]:
        """What each layer refines, low-level tokens first, and how many of them are low-level."""
        low, high = selection.groups
        layers, low_kept = [], []
        for index in range(self.num_layers):
            everywhere = self.schedule.refines_all(index)
            if everywhere:
                layers.append(LayerSelection.concat([low.layers[index], high.layers[index]]))
            elif self.prune_high_levels:
                layers.append(high.layers[index])
            else:
                layers.append(_all_from(tokens, num_low))
            low_kept.append(low.layers[index].size if everywhere else 0)
        return tuple(layers), low_kept


def _refine_from(
    layer: nn.Module, memory: Tensor, tokens: TokenGrid, first: int, num_low: int
) -> Tensor:
    """(B, N, C) memory with every token from ``first`` on refined."""
    refined = layer(
        memory[:, first:],
        tokens.pos_embed[:, first:],
        tokens.reference_points[:, first:],
        memory,
        tokens,
        num_low - first,
    )
    if first == 0:
        return refined
    return torch.cat([memory[:, :first].to(refined.dtype), refined], 1)


def _refine_chosen(
    layer: nn.Module, memory: Tensor, tokens: TokenGrid, chosen: LayerSelection, num_low: int
) -> Tensor:
    """(B, N, C) memory with the chosen tokens refined, ``num_low`` of them low-level."""
    points = chosen.gather(tokens.reference_points.flatten(2)).unflatten(2, (-1, 2))
    refined = layer(
        chosen.gather(memory), chosen.gather(tokens.pos_embed), points, memory, tokens, num_low
    )
    return chosen.scatter_kept(memory, refined.to(memory.dtype))


def _all_from(tokens: TokenGrid, first: int) -> LayerSelection:
    """Every token from ``first`` on that is not padding."""
    batch, device = tokens.features.shape[0], tokens.features.device
    indices = torch.arange(first, tokens.num_tokens, device=device).expand(batch, -1)
    mask = tokens.padding_mask
    kept = torch.ones_like(indices, dtype=torch.bool) if mask is None else ~mask[:, first:]
    return LayerSelection(indices, kept, kept, mask is None)
