"""Strategies side by side on the same detector: what each costs and gains, in one report."""

from sparse_encoders.analysis.compare.report import write_report
from sparse_encoders.analysis.compare.results import Report, Row
from sparse_encoders.analysis.compare.run import compare
from sparse_encoders.analysis.compare.settings import Comparison, Variant

__all__ = ["Comparison", "Report", "Row", "Variant", "compare", "write_report"]
