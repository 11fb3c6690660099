"""What every encoder that prunes does: select, gather, refine, write back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from sparse_encoders.contracts import DetectorParts
from sparse_encoders.encoders.base import Encoder, EncoderOutput
from sparse_encoders.encoders.memory import RankedMemory, Rows, TokenMemory
from sparse_encoders.selectors.selection import LayerSelection, Selection
from sparse_encoders.tokens import TokenGrid


@dataclass(frozen=True)
class Batch:
    """What the layers of one forward pass have in common.

    Attributes:
        tokens: as the encoder got them.
        detector: what the detector lends.
        selection: what the selector decided; None without a selector.
    """

    tokens: TokenGrid
    detector: DetectorParts
    selection: Selection | None


class Refined(NamedTuple):
    """What :meth:`PruningEncoder.refine` gives.

    Attributes:
        tokens: (B, K, C) the rows, refined.
        objects: (B, k) int64, see :attr:`EncoderOutput.objects`.
    """

    tokens: Tensor
    objects: Tensor | None = None


class PruningEncoder(Encoder):
    """Base of encoders whose layers refine some tokens only.

    A subclass builds ``self.layers`` and ``self.selector`` and overrides what differs:
    :meth:`level_groups` and :meth:`choose` (which tokens a layer refines), :meth:`refine`
    (what it does to them), :meth:`finish` (what is done to all tokens in the end).

    Attributes:
        values: what layers attend to: 'updated', all tokens with what earlier layers wrote,
            or 'input', the tokens as the encoder got them.
    """

    values = "updated"
    default_ffn_slice = 1024

    @property
    def returns_refined(self) -> bool:
        """Whether :attr:`EncoderOutput.refined` is filled, for a loss."""
        return False

    def forward(self, tokens: TokenGrid, detector: DetectorParts) -> EncoderOutput:
        """Select once, refine layer by layer; see :meth:`Encoder.forward`."""
        groups, selection = self.level_groups(tokens), None
        if self.selector is not None:
            selection = self.selector.select(tokens, detector, groups)
        layers = self.choose(selection, tokens)
        memory = (RankedMemory if len(groups) == 1 else TokenMemory)(tokens, layers)
        batch = Batch(tokens, detector, selection)
        refined: list[Tensor] = []
        objects: list[Tensor] = []
        for index in range(self.num_layers):
            value = memory.all_tokens() if self.values == "updated" else tokens.features
            result = self.refine(index, memory.rows(index), value, batch)
            memory.write(index, result.tokens)
            if self.returns_refined:
                refined.append(result.tokens)
            if result.objects is not None:
                objects.append(result.objects)
        return EncoderOutput(
            memory=self.finish(memory.all_tokens(), tokens, layers),
            tokens=tokens,
            selection=selection,
            layers=() if selection is None else layers,
            refined=tuple(refined),
            objects=tuple(objects),
        )

    def level_groups(self, tokens: TokenGrid) -> Sequence[range]:
        """Groups of neighbouring levels that are ranked by themselves; one by default.

        With one group every layer refines the head of its ranking.
        """
        return (tokens.all_levels,)

    def choose(self, selection: Selection | None, tokens: TokenGrid) -> tuple[LayerSelection, ...]:
        """For each layer the tokens that it refines: what the selector keeps, by default."""
        assert selection is not None
        (group,) = selection.groups
        return group.layers

    def refine(self, index: int, rows: Rows, value: Tensor, batch: Batch) -> Refined:
        """What layer ``index`` makes of its rows; by default one call of the layer.

        Args:
            index: encoder layer, from 0.
            rows: the K tokens of each image that it refines.
            value: (B, N, C) the tokens that they attend to.
            batch: what all layers share.
        """
        return Refined(self.call_layer(index, rows, rows.query, value, batch.tokens))

    def call_layer(
        self, index: int, rows: Rows, query: Tensor, value: Tensor, *further: Any
    ) -> Tensor:
        """(B, K, C) ``query`` refined by layer ``index``, in the place of the rows' own.

        Args:
            index: encoder layer, from 0.
            rows: where the queries are.
            query: (B, K, C).
            value: (B, N, C) the tokens that they attend to.
            *further: what the layer takes beyond its value.
        """
        layer, geometry = self.layers[index], (rows.pos_embed, rows.reference_points)
        refined: Tensor = self.run_layer(index, layer, query, *geometry, value, *further)
        return refined

    def finish(self, memory: Tensor, tokens: TokenGrid, layers: Sequence[LayerSelection]) -> Tensor:
        """What is done to the (B, N, C) memory after the last layer; nothing by default."""
        return memory
