"""Write a comparison's report."""

from __future__ import annotations

from pathlib import Path

from sparse_encoders.analysis.compare.page import as_html
from sparse_encoders.analysis.compare.results import Report
from sparse_encoders.analysis.compare.text import as_csv, as_json, as_markdown


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write report.html, report.md, report.csv and report.json; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for kind, text in (
        ("html", as_html(report)),
        ("md", as_markdown(report)),
        ("csv", as_csv(report)),
        ("json", as_json(report)),
    ):
        written.append(folder / f"report.{kind}")
        written[-1].write_text(text)
    return written
