"""The two attention operators, compiled or in plain PyTorch (see docs/operators.md)."""

from sparse_encoders.ops.deformable_attention import deformable_attention
from sparse_encoders.ops.extension import BACKENDS, has_extension, why_no_extension
from sparse_encoders.ops.key_aware_attention import key_aware_attention

__all__ = [
    "BACKENDS",
    "deformable_attention",
    "has_extension",
    "key_aware_attention",
    "why_no_extension",
]
