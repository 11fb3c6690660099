"""Lite DETR's interleaved encoder (Li et al., CVPR 2023, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparse_encoders.encoders.ffn import SlicedFFN
from sparse_encoders.encoders.layer import KeptTokensLayer
from sparse_encoders.encoders.memory import Rows
from sparse_encoders.encoders.pruning import Batch, PruningEncoder, Refined
from sparse_encoders.encoders.schedule import make_schedule
from sparse_encoders.registry import MODELS
from sparse_encoders.selectors.selection import LayerSelection, Selection, TokenRange
from sparse_encoders.tokens import TokenGrid


class InterleavedLayer(KeptTokensLayer):
    """A layer on the kept tokens, optionally with a separate FFN for low-level tokens.

    Args:
        small_low_level_ffn: low-level tokens have an FFN and a norm of their own; this FFN
            has C hidden channels.
    """

    def __init__(self, *args: Any, small_low_level_ffn: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.low_level_ffn: nn.Module | None = None
        self.low_level_norm: nn.Module | None = None
        if small_low_level_ffn:
            settings = {**self.ffn_cfg, "feedforward_channels": self.embed_dims}
            self.low_level_ffn = SlicedFFN(**settings)
            self.low_level_norm = nn.LayerNorm(self.embed_dims)

    def feed_forward(self, attended: Tensor, num_low: int = 0) -> Tensor:
        """(B, K, C) queries after FFN and norm; the first ``num_low`` of the K are low-level."""
        if self.low_level_ffn is None or self.low_level_norm is None:
            return super().feed_forward(attended)
        low = self.low_level_norm(self.low_level_ffn(attended[:, :num_low]))
        return torch.cat([low, super().feed_forward(attended[:, num_low:])], 1)


@MODELS.register_module()
class LiteDETREncoder(PruningEncoder):
    """Refine the few coarse tokens in every layer, the many fine ones once a block.

    In a layer that does not end its block the queries are the tokens of the ``high_levels``
    coarsest levels and the values all tokens; in the last layer of a block every token is a query.

    With a selector, the last layer of a block refines only the tokens kept there: the keep ratio of
    that layer of the low-level tokens and the same of the high-level ones (each ranked among its
    own).

    Args:
        num_layers: encoder layers; None takes the schedule's, or 6.
        schedule: 'H3L1-(2+1)x3' and so on, instead of ``blocks`` and ``high_levels``: 3 high
            levels, 1 low level, 3 blocks of 2 layers.
        blocks: blocks; divides ``num_layers``. 3 by default.
        high_levels: coarse levels refined in every layer; all but one by default.
        small_low_level_ffn: see :class:`InterleavedLayer`; in the last layer of a block (the
            released models).
        attention: 'plain', or 'key_aware' (section 3.4).
        key_aware: settings of :class:`KeyAwareDeformableAttention`:
            ``same_locations_on_every_level``, ``separate_key_projection``.
        selector: config of any :class:`Selector`, see above.
        prune_high_levels: with a selector, let the other layers refine only the
            kept share of the high-level tokens, too.
        *args, **kwargs: see :class:`Encoder`.

    Raises:
        ValueError: numbers of layers, blocks and levels that do not fit each other, an unknown
            name, or a schedule that contradicts the other settings.
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
        self.first_high = num_levels - plan.high_levels
        for index in range(self.num_layers):
            small = small_low_level_ffn and plan.refines_all(index)
            config = self.layer_config(attention, key_aware)
            self.layers.append(InterleavedLayer(**config, small_low_level_ffn=small))
        if selector is not None:
            self.selector = self.build_selector(selector)

    def level_groups(self, tokens: TokenGrid) -> Sequence[range]:
        """Two groups, the low (fine) and the high (coarse) levels, each ranked by itself.

        The number of tokens that go through each FFN is then known on the host.
        """
        self.check_levels(tokens)
        return range(self.first_high), range(self.first_high, self.num_levels)

    def refined_levels(self, layer: int) -> range:
        """All levels in the last layer of a block, the high (coarse) ones in the others."""
        return range(0 if self.schedule.refines_all(layer) else self.first_high, self.num_levels)

    def choose(self, selection: Selection | None, tokens: TokenGrid) -> tuple[LayerSelection, ...]:
        """All tokens of each layer's levels, or the kept ones, those of low levels first."""
        layers: list[LayerSelection] = []
        for index in range(self.num_layers):
            everywhere = self.schedule.refines_all(index)
            if selection is None or not (everywhere or self.prune_high_levels):
                start = tokens.level_slices[self.refined_levels(index)[0]].start
                layers.append(TokenRange.of(tokens, start))
                continue
            low, high = (group.layers[index] for group in selection.groups)
            layers.append(LayerSelection.concat([low, high]) if everywhere else high)
        return tuple(layers)

    def refine(self, index: int, rows: Rows, value: Tensor, batch: Batch) -> Refined:
        """One call of the layer, with the number of low-level rows as a further argument."""
        num_low = 0
        if self.schedule.refines_all(index):
            num_low = batch.tokens.level_slices[self.first_high].start
            if batch.selection is not None:
                num_low = batch.selection.groups[0].layers[index].size
        return Refined(self.call_layer(index, rows, rows.query, value, batch.tokens, num_low))
