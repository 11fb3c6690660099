"""Metrics for MMDetection's evaluators: of token selection, and AP with a confidence interval."""

from sparse_encoders.evaluation.resampled_ap import ResampledCocoMetric
from sparse_encoders.evaluation.token_selection import DecoderCorrelation, ForegroundRecall

__all__ = ["DecoderCorrelation", "ForegroundRecall", "ResampledCocoMetric"]
