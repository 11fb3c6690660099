"""The report's files: a page that needs no network, and the same as Markdown, CSV and JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from sparse_encoders.analysis.report.figures import plots
from sparse_encoders.analysis.report.ranking import ranked
from sparse_encoders.analysis.report.results import Report
from sparse_encoders.analysis.report.summary import WORDS, listed, measured_on, say, summarise
from sparse_encoders.analysis.report.tables import all_numbers, tables

# a list of nothing but numbers, which goes into one line
_NUMBERS = re.compile(r"\[[\s\d.,e+-]+\]")


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write report.html, report.md, report.csv and report.json; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "html": as_html(report),
        "md": as_markdown(report),
        "csv": all_numbers(report).to_csv(index=False),
        "json": as_json(report),
    }
    for kind, text in texts.items():
        (folder / f"report.{kind}").write_text(text)
    return [folder / f"report.{kind}" for kind in texts]


def as_html(report: Report) -> str:
    """One HTML file with Plotly's script in it: nothing is loaded from anywhere."""
    figures = plots(report)
    names = ["stage-latency", "stage-madds", "ratio-latency"]
    names = ["ap-latency", "ap-madds", *names] if ranked(report) else names
    first = next((name for name in names if name in figures), None)
    return _render("page.html", report, figures=figures, first=first, plotly=get_plotlyjs())


def as_markdown(report: Report) -> str:
    """The report for a reader of text."""
    return _render("page.md", report)


def as_json(report: Report) -> str:
    """Everything but the pictures."""
    summary = summarise(report)
    record = {"warnings": summary.warnings, "headline": summary.headline, **report.as_record()}
    text = json.dumps(record, indent=1, default=str)
    return _NUMBERS.sub(lambda match: re.sub(r"\s+", " ", match[0]), text) + "\n"


def _render(template: str, report: Report, **more: Any) -> str:
    pages = Environment(
        loader=PackageLoader(__package__, "template"),
        autoescape=template.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return pages.get_template(template).render(
        report=report,
        summary=summarise(report),
        tables=tables(report),
        conditions=conditions(report),
        words=WORDS,
        title=say("summary", "title", detector=report.detector.split(".")[-1]),
        **more,
    )


def conditions(report: Report) -> list[tuple[str, str]]:
    """What everything was measured on and how, as (name, text)."""
    machine, data = report.machine, report.data
    values: dict[str, Any] = {
        **vars(report),
        **measured_on(report),
        "device": machine["cpu_capability" if report.device == "cpu" else "device"],
        "versions": ", ".join(f"{k} {v}" for k, v in machine["versions"].items() if v),
        "date": f"{report.made} " if report.made else "",
        "minutes": report.seconds / 60,
        "seeds": listed(report.seeds),
        "reused": say("conditions", "reused", count=report.reused) if report.reused else "",
    }
    if data is not None:
        images = data["trained"]
        trained = "" if images is None else say("conditions", "trained", count=images)
        values |= {**data, "trained": trained, "classes": len(data["classes"])}
    names = ["command", "config", "detector", "data", "image", "rounds", "machine", "versions"]
    names += ["seed", "matched", "made"]
    unknown = set() if report.repeats else {"command", "config", "image", "rounds"}
    unknown |= set() if data is not None else {"data"}
    unknown |= set() if report.matched else {"matched"}
    return [(name, say("conditions", name, **values)) for name in names if name not in unknown]
