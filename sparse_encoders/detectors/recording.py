"""Recording of the locations and weights of a decoder's cross-attention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import torch
from mmcv.ops import MultiScaleDeformableAttention
from torch import Tensor, nn

from sparse_encoders.attention import KeyAwareDeformableAttention
from sparse_encoders.attention.base import level_shapes
from sparse_encoders.autocast import without_gradient
from sparse_encoders.ops.reference import sample, sampling_locations
from sparse_encoders.supervision.decoder_attention import decoder_attention_map
from sparse_encoders.tokens import LevelShapes


@dataclass
class AttentionRecord:
    """Sampling locations and attention weights of the queries in every decoder layer.

    Attributes:
        locations: per layer (B, Q, M, L, P, 2) sampling locations, normalised (x, y).
        weights: per layer (B, Q, M, L, P), summing to 1 over L and P.
    """

    locations: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)

    def attention_map(self, shapes: LevelShapes) -> Tensor:
        """(B, N) decoder attention map, see :func:`decoder_attention_map`."""
        locations, weights = torch.stack(self.locations, 1), torch.stack(self.weights, 1)
        return decoder_attention_map(locations, weights, shapes)


@contextmanager
def record_cross_attention(decoder: nn.Module, queries: slice) -> Iterator[AttentionRecord]:
    """Record the decoder's cross-attention for the length of a ``with`` block.

    Forward pre-hooks compute locations and weights a second time, from the modules' inputs and
    without gradient. For the few hundred queries of a decoder this takes little time.

    Args:
        decoder: its deformable attention modules are recorded, in their order.
        queries: the queries to record (without denoising queries).

    Raises:
        ValueError: the decoder has no deformable cross-attention.
    """
    kinds = (MultiScaleDeformableAttention, KeyAwareDeformableAttention)
    modules = [module for module in decoder.modules() if isinstance(module, kinds)]
    if not modules:
        raise ValueError(f"{type(decoder).__name__} has no deformable cross-attention to record")
    record = AttentionRecord()

    @without_gradient
    def observe(module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        query = args[0] if args else inputs["query"]
        query_pos = inputs.get("query_pos")
        query = query if query_pos is None else query + query_pos
        if not module.batch_first:
            query = query.transpose(0, 1)
        query, points = query[:, queries], inputs["reference_points"][:, queries]
        if isinstance(module, KeyAwareDeformableAttention):
            locations, weights = _key_aware_reads(module, query, points, inputs)
        else:
            locations, weights = _plain_reads(module, query, points, inputs)
        record.locations.append(locations)
        record.weights.append(weights)

    handles = [module.register_forward_pre_hook(observe, with_kwargs=True) for module in modules]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def _plain_reads(
    module: Any, query: Tensor, points: Tensor, inputs: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Sampling locations and weights of (B, Q, C) queries at (B, Q, L, 2 or 4) reference points."""
    sets = (*query.shape[:2], module.num_heads, module.num_levels, module.num_points)
    offsets = module.sampling_offsets(query).float().view(*sets, 2)
    logits = module.attention_weights(query).float().view(sets)
    shapes = level_shapes(inputs["spatial_shapes"])
    locations = sampling_locations(shapes, points.float(), offsets)
    return locations, logits.flatten(-2).softmax(-1).view(sets)


def _key_aware_reads(
    module: KeyAwareDeformableAttention, query: Tensor, points: Tensor, inputs: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """The same for key-aware attention, whose weights come from the sampled keys."""
    shapes = level_shapes(inputs["spatial_shapes"])
    locations = module.sampling_locations(query, points, shapes).float()
    locations = locations.expand(-1, -1, -1, len(shapes), -1, -1)
    value = inputs["value"] if module.batch_first else inputs["value"].transpose(0, 1)
    _, keys = module.project(value, inputs.get("key_padding_mask"))
    sampled = sample(module.split_heads(keys).float(), shapes, locations)  # (B, M, Q, L * P, D)
    queries = module.split_heads(module.query_proj(query)).float().transpose(1, 2)
    logits = (sampled @ queries.unsqueeze(-1)).squeeze(-1) / sqrt(queries.shape[-1])
    return locations, logits.softmax(-1).transpose(1, 2).unflatten(-1, locations.shape[3:5])
