"""The part of a detector that a multiply-add or a parameter belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mmcv.cnn import ConvModule
from mmcv.cnn.bricks.transformer import FFN
from mmcv.ops import MultiScaleDeformableAttention
from torch import nn

from sparse_encoders.attention import KeyAwareDeformableAttention

PARTS = (
    "backbone",
    "neck",
    "encoder.values",  # the projections of what is sampled
    "encoder.sampling",  # bilinear samples, their weights and their sum
    "encoder.attention",  # sampling locations, weights and the output projection
    "encoder.ffn",
    "encoder.convolutions",  # RT-DETR's fusion of levels
    "encoder.dual_attention",  # self-attention of the object tokens, and their category scores
    "encoder.selector",  # with the first-stage projection where the selector runs it
    "encoder.auxiliary",  # Sparse DETR's heads for its training losses
    "encoder.other",
    "first_stage.projection",
    "first_stage.heads",  # classes and boxes of all tokens
    "decoder",
    "head",
    "other",
)
ATTENTIONS = (MultiScaleDeformableAttention, KeyAwareDeformableAttention)
_FIRST_STAGE = ("memory_trans_fc", "memory_trans_norm")
_QUERIES = (
    "pos_trans_fc",
    "pos_trans_norm",
    "query_embedding",
    "anchor_embedding",
    "reference_points",
    "reference_points_fc",
    "query_map",
)
_BRANCH = re.compile(r"bbox_head\.(?:cls|reg)_branches\.(\d+)(?:\.|$)")


class PartFinder:
    """Finds the part of :data:`PARTS` for a stack of modules.

    Args:
        model: MMDetection's detector.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules: Mapping[str, nn.Module] = dict(model.named_modules())
        self._decoder_layers = int(model.get_submodule("decoder").num_layers)  # type: ignore[arg-type]

    def of_stack(self, stack: Sequence[str]) -> str:
        """The part of operations inside of these modules, outermost first."""
        if not stack:
            return "other"
        top = stack[0].split(".")[0]
        if top == "encoder":
            return f"encoder.{self._in_encoder(stack)}"
        if top in _FIRST_STAGE:
            return "first_stage.projection"
        branch = _BRANCH.match(stack[-1])
        if top == "bbox_head" and branch and int(branch[1]) >= self._decoder_layers:
            return "first_stage.heads"
        if top in ("backbone", "neck", "decoder"):
            return top
        if top in _QUERIES:
            return "decoder"
        return "head" if top == "bbox_head" else "other"

    def of_parameter(self, name: str) -> str:
        """The part of a parameter by its qualified name."""
        owners = name.split(".")[:-1]
        return self.of_stack([".".join(owners[: i + 1]) for i in range(len(owners))])

    def _in_encoder(self, stack: Sequence[str]) -> str:
        if any(name.startswith("encoder.auxiliary") for name in stack):
            return "auxiliary"
        borrowed = [name.split(".")[0] for name in stack if not name.startswith("encoder")]
        if any(name in _FIRST_STAGE for name in borrowed):
            return "selector"
        if borrowed or any(".object_attention" in name for name in stack):
            return "dual_attention"
        if any(name.startswith("encoder.selector") for name in stack):
            return "selector"
        for depth, name in enumerate(stack):
            module = self._modules.get(name)
            if isinstance(module, FFN):
                return "ffn"
            if isinstance(module, ATTENTIONS):
                return _in_attention(stack[depth + 1 :])
            if isinstance(module, nn.MultiheadAttention):
                return "attention"
            if isinstance(module, (ConvModule, nn.Conv2d)):
                return "convolutions"
        return "other"


def _in_attention(inner: Sequence[str]) -> str:
    """The part of operations in a deformable attention, by the modules inside of it."""
    if not inner:
        return "sampling"
    projection = inner[0].rsplit(".", 1)[-1]
    return "values" if projection in ("value_proj", "key_proj") else "attention"
