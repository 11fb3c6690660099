"""Selectors, which choose the tokens that an encoder refines."""

from sparse_encoders.selectors.base import Selector
from sparse_encoders.selectors.decoder_attention import DecoderAttentionSelector
from sparse_encoders.selectors.focus import FocusTokenSelector
from sparse_encoders.selectors.learned import LearnedSelector
from sparse_encoders.selectors.reference import OracleSelector, RandomSelector
from sparse_encoders.selectors.salience import SalienceTokenSelector
from sparse_encoders.selectors.selection import GroupSelection, LayerSelection, Selection

__all__ = [
    "DecoderAttentionSelector",
    "FocusTokenSelector",
    "GroupSelection",
    "LayerSelection",
    "LearnedSelector",
    "OracleSelector",
    "RandomSelector",
    "SalienceTokenSelector",
    "Selection",
    "Selector",
]
