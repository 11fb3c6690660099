"""Metrics of token selection, for MMDetection's evaluators."""

from sparse_encoders.evaluation.token_selection import DecoderCorrelation, ForegroundRecall

__all__ = ["DecoderCorrelation", "ForegroundRecall"]
