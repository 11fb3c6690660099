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
    """What all layers of one forward pass share; ``selection`` is None without a selector."""

    tokens: TokenGrid
    detector: DetectorParts
    selection: Selection | None


class Refined(NamedTuple):
    """(B, K, C) refined rows of a layer, and its :attr:`EncoderOutput.objects`."""

    tokens: Tensor
    objects: Tensor | None = None


class PruningEncoder(Encoder):
    """Base of encoders whose layers refine only some of the tokens.

    A subclass builds ``self.layers`` and ``self.selector`` and may override :meth:`level_groups`
    and :meth:`choose` (which tokens a layer refines), :meth:`refine` (how a layer refines them)
    and :meth:`finish` (what follows the last layer).

    Attributes:
        values: the tokens that layers attend to: 'updated', all tokens with the rows that earlier
            layers wrote, or 'input', the encoder's input.
    """

    values = "updated"
    default_ffn_slice = 1024

    @property
    def returns_refined(self) -> bool:
        """Whether :attr:`EncoderOutput.refined` is filled, for a loss."""
        return False

    def forward(self, tokens: TokenGrid, detector: DetectorParts) -> EncoderOutput:
        """Select tokens once, then refine them layer by layer; see :meth:`Encoder.forward`.

        For layer i: gather its rows from the memory, :meth:`refine` them, and scatter the rows that
        it keeps back. A subclass changes the steps that it calls, not this method.
        """
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
        """Groups of neighbouring levels, each ranked and cut to the keep ratio by itself.

        In order, every level once. By default all levels are one group; then layer i refines the
        first rows of what layer i - 1 refined, which :class:`RankedMemory` makes use of.
        """
        return (tokens.all_levels,)

    def choose(self, selection: Selection | None, tokens: TokenGrid) -> tuple[LayerSelection, ...]:
        """The tokens that each of the layers refines; by default what the selector keeps.

        ``selection`` is None without a selector, which only an encoder that overrides this method
        allows.
        """
        assert selection is not None
        (group,) = selection.groups
        return group.layers

    def refine(self, index: int, rows: Rows, value: Tensor, batch: Batch) -> Refined:
        """Compute layer ``index`` on its rows; by default one call of the layer.

        An override computes by :meth:`call_layer` and :meth:`run_layer`, so that gradient
        checkpointing holds.

        Args:
            index: encoder layer, from 0.
            rows: the K tokens of each image that the layer refines.
            value: (B, N, C) the tokens that they attend to, see :attr:`values`.
            batch: the same for all layers.

        Returns:
            (B, K, C) refined rows, in the order of ``rows``. Those that are not
            :attr:`LayerSelection.kept` are computed, but not written back.

        Raises:
            ValueError: the detector lends nothing that the layer needs.
        """
        return Refined(self.call_layer(index, rows, rows.query, value, batch.tokens))

    def call_layer(
        self, index: int, rows: Rows, query: Tensor, value: Tensor, *further: Any
    ) -> Tensor:
        """(B, K, C) ``query`` after ``self.layers[index]``, at the positions of ``rows``.

        Arguments are those of :meth:`refine`, and what the layer takes after ``value``.
        """
        layer, geometry = self.layers[index], (rows.pos_embed, rows.reference_points)
        refined: Tensor = self.run_layer(index, layer, query, *geometry, value, *further)
        return refined

    def finish(self, memory: Tensor, tokens: TokenGrid, layers: Sequence[LayerSelection]) -> Tensor:
        """The encoder's output from the (B, N, C) memory after the last layer; by default the same.

        ``layers`` are the tokens that each layer refined.
        """
        return memory
