"""Encoders, which refine the tokens of a batch; one in each file."""

from sparse_encoders.encoders.base import Encoder, EncoderOutput
from sparse_encoders.encoders.dense import DenseEncoder
from sparse_encoders.encoders.dual_attention import DualAttentionEncoder
from sparse_encoders.encoders.hybrid import HybridEncoder
from sparse_encoders.encoders.interleaved import LiteDETREncoder
from sparse_encoders.encoders.none import NoEncoder
from sparse_encoders.encoders.sparse import SparseDETREncoder

__all__ = [
    "DenseEncoder",
    "DualAttentionEncoder",
    "Encoder",
    "EncoderOutput",
    "HybridEncoder",
    "LiteDETREncoder",
    "NoEncoder",
    "SparseDETREncoder",
]
