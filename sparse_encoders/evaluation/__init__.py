"""Metrics for MMDetection's evaluators: of token selection, and of how sure AP is."""

from sparse_encoders.evaluation.resampled_ap import ResampledCocoMetric
from sparse_encoders.evaluation.token_selection import DecoderCorrelation, ForegroundRecall

__all__ = ["DecoderCorrelation", "ForegroundRecall", "ResampledCocoMetric"]
