"""Which tokens an encoder refines."""

from sparse_encoders.selectors.base import LayerSelection, Selection, Selector
from sparse_encoders.selectors.decoder_attention import DecoderAttentionSelector
from sparse_encoders.selectors.focus import FocusTokenSelector
from sparse_encoders.selectors.reference import OracleSelector, RandomSelector

__all__ = [
    "DecoderAttentionSelector",
    "FocusTokenSelector",
    "LayerSelection",
    "OracleSelector",
    "RandomSelector",
    "Selection",
    "Selector",
]
