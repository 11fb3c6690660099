"""The report's files: a page that needs no network, and the same as Markdown, CSV and JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from sparse_encoders.analysis.report.figures import Plot, plots
from sparse_encoders.analysis.report.ranking import ranked
from sparse_encoders.analysis.report.results import Report
from sparse_encoders.analysis.report.summary import WORDS, listed, say, summarise, threads_of
from sparse_encoders.analysis.report.tables import all_numbers, tables

# a list of nothing but numbers, which goes into one line
_NUMBERS = re.compile(r"\[[\s\d.,e+-]+\]")


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


def as_html(report: Report) -> str:
    """One HTML file with Plotly's script in it: nothing is loaded from anywhere."""
    drawn = list(plots(report))
    first = _first(report, drawn)
    return _render(
        "page.html",
        report,
        first=first,
        rest=[plot for plot in drawn if plot is not first],
        plotly=get_plotlyjs(),
    )


def as_markdown(report: Report) -> str:
    """The report for a reader of text."""
    return _render("page.md", report)


def as_csv(report: Report) -> str:
    """Every number of every variant, in full, a line each."""
    text: str = all_numbers(report).to_csv(index=False)
    return text


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
    detector = report.detector.split(".")[-1]
    return pages.get_template(template).render(
        report=report,
        summary=summarise(report),
        tables=tables(report),
        conditions=conditions(report),
        words=WORDS,
        title=say("summary", "title", detector=detector),
        **more,
    )


def _first(report: Report, drawn: list[Plot]) -> Plot | None:
    """The figure of the first screen; without AP if rows are not ranked."""
    names = ["stage-latency", "stage-madds", "ratio-latency"]
    names = ["ap-latency", "ap-madds", *names] if ranked(report) else names
    by_name = {plot.name: plot for plot in drawn}
    return next((by_name[name] for name in names if name in by_name), None)


def conditions(report: Report) -> list[tuple[str, str]]:
    """What everything was measured on and how, as (name, text)."""
    machine, data = report.machine, report.data
    values: dict[str, Any] = {
        **vars(report),
        **machine,
        "height": report.size[0],
        "width": report.size[1],
        "repeats": report.repeats,
        "threads": threads_of(report),
        "device": machine["device"] if report.device != "cpu" else machine["cpu_capability"],
        "versions": ", ".join(f"{k} {v}" for k, v in machine["versions"].items() if v),
        "date": f"{report.made} " if report.made else "",
        "minutes": report.seconds / 60,
        "seeds": listed([str(seed) for seed in report.seeds]),
        "reused": say("conditions", "reused", count=report.reused) if report.reused else "",
    }
    names = ["command", "config", "detector", "image", "rounds", "machine", "versions", "seed"]
    if not report.repeats:
        names = [name for name in names if name not in ("command", "config", "image", "rounds")]
    if data is not None:
        names.insert(names.index("detector") + 1, "data")
        images = data["trained"]
        trained = "" if images is None else say("conditions", "trained", count=images)
        values.update({**data, "trained": trained, "classes": len(data["classes"])})
    if report.matched:
        names.append("matched")
    return [(name, say("conditions", name, **values)) for name in [*names, "made"]]
