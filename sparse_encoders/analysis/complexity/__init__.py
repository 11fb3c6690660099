"""Multiply-adds and parameters of a detector, part by part (see docs/complexity.md)."""

from sparse_encoders.analysis.complexity.counter import Complexity, Part, count_complexity
from sparse_encoders.analysis.complexity.models import model_of_config
from sparse_encoders.analysis.complexity.parts import PARTS

__all__ = ["PARTS", "Complexity", "Part", "count_complexity", "model_of_config"]
