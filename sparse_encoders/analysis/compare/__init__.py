"""Strategies side by side on the same detector: what each costs and gains, in one report."""

from sparse_encoders.analysis.compare.run import compare
from sparse_encoders.analysis.compare.settings import Comparison, Derived, Variant
from sparse_encoders.analysis.report import Report, Row, read_report

__all__ = ["Comparison", "Derived", "Report", "Row", "Variant", "compare", "read_report"]
