"""A comparison's numbers, the verdicts that follow from them, and the report page.

Needs Jinja2, pandas and Plotly: ``pip install 'sparse_encoders[analysis]'``.
"""

from sparse_encoders.analysis.report.reading import read_report
from sparse_encoders.analysis.report.results import Report, Row

__all__ = ["Report", "Row", "read_report"]
