"""The base of both attention modules: the arguments of a call, and its last steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

LevelShapes = Sequence[tuple[int, int]]


class SamplingAttention(nn.Module):
    """Base of attention modules that sample the tokens of all levels around reference points.

    A subclass builds ``output_proj``, ``dropout`` and ``batch_first``, and implements
    :meth:`attend`.
    """

    batch_first: bool
    output_proj: nn.Linear
    dropout: nn.Dropout

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        reference_points: Tensor | None = None,
        spatial_shapes: Tensor | LevelShapes | None = None,
        level_start_index: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """``identity + dropout(output_proj(attend(query + query_pos, value)))``.

        Arguments and order are those of MMCV's ``MultiScaleDeformableAttention.forward``, because
        MMDetection's encoder and decoder layers call this method as they call MMCV's. B images, Q
        queries, N tokens on L levels, C channels; all floating-point tensors have the dtype of the
        module's weights, except under autocast, and ``reference_points`` any dtype.

        Args:
            query: (B, Q, C), or (Q, B, C) if ``batch_first`` is False.
            key: ignored, as in MMCV: keys, if any, are projected from ``value``.
            value: (B, N, C), or (N, B, C) if ``batch_first`` is False; None: ``query``.
            identity: added to the output, shape of ``query``; None: ``query``.
            query_pos: position embedding, added to ``query`` before it is projected; shape of
                ``query``. None: nothing is added.
            key_padding_mask: (B, N) bool, True = padding, whose projected value (and key) is zero.
            reference_points: (B, Q, L, 2) as (x, y) or (B, Q, L, 4) as (x, y, w, h), in [0, 1] of
                each level's padded map.
            spatial_shapes: (h, w) of each level, as a tuple on the host or as an (L, 2) integer
                tensor. A tensor on a GPU is read back, which synchronises.
            level_start_index: ignored; it follows from ``spatial_shapes``.
            **kwargs: ignored, as in MMCV.

        Returns:
            Shape of ``query``.

        Raises:
            TypeError: ``reference_points`` or ``spatial_shapes`` is missing.
            ValueError: shapes or devices that do not fit each other, or a backend that cannot take
                these tensors.
        """
        if reference_points is None or spatial_shapes is None:
            raise TypeError(f"{type(self).__name__} needs reference_points and spatial_shapes")
        value = query if value is None else value
        identity = query if identity is None else identity
        query = query if query_pos is None else query + query_pos
        if not self.batch_first:
            query, value = query.transpose(0, 1), value.transpose(0, 1)
        shapes = level_shapes(spatial_shapes)
        output = self.output_proj(
            self.attend(query, value, key_padding_mask, reference_points, shapes)
        )
        if not self.batch_first:
            output = output.transpose(0, 1)
        result: Tensor = self.dropout(output) + identity
        return result

    def attend(
        self,
        query: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None,
        reference_points: Tensor,
        shapes: LevelShapes,
    ) -> Tensor:
        """(B, Q, C) weighted sums of sampled values, before the output projection.

        :meth:`forward` calls it, with its own arguments, batch first.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement attend()")


def level_shapes(spatial_shapes: Tensor | LevelShapes) -> tuple[tuple[int, int], ...]:
    """(h, w) of each level as integers on the host; reading a tensor on a GPU synchronises."""
    if isinstance(spatial_shapes, Tensor):
        spatial_shapes = spatial_shapes.tolist()
    return tuple((h, w) for h, w in spatial_shapes)
