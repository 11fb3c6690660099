"""The report as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from datetime import datetime, timezone

from sparse_encoders.analysis.compare.columns import (
    ACCURACY,
    LATENCIES,
    OVERVIEW,
    TRAINING,
    Column,
    all_columns,
    part_columns,
)
from sparse_encoders.analysis.compare.results import Report, threads_of
from sparse_encoders.analysis.compare.summary import summarise

# a list of nothing but numbers, which goes into one line
_NUMBERS = re.compile(r"\[[\s\d.,e+-]+\]")


def sections(report: Report) -> list[tuple[str, str, tuple[Column, ...]]]:
    """Title, a sentence and columns of each table, those without a number left out."""
    found = [
        ("All variants", f"Gains and speed are relative to {report.baseline}.", OVERVIEW),
        ("Accuracy and tokens", "COCO box AP in [0, 1], Corr and foreground recall.", ACCURACY),
        ("Latency and memory", "Medians of rounds in turns; stages add up.", LATENCIES),
        (
            "Multiply-adds",
            "One multiply-add counts one; the parts add up to the total.",
            part_columns(report),
        ),
        ("Weights", "Where each variant's weights are from.", TRAINING),
    ]
    kept = []
    for title, text, columns in found:
        shown = tuple(
            column for column in columns if column.key == "encoder" or _any(report, column)
        )
        numbers = [column for column in shown if column.key not in ("encoder", "keep_ratio")]
        if numbers:
            kept.append((title, text, shown))
    return kept


def _any(report: Report, column: Column) -> bool:
    """Whether a column has a value that is not nothing."""
    values = [column.get(report, row) for row in report.rows]
    if column.key.startswith("gmadds_"):
        return any(values)
    return any(value is not None and value != "" for value in values)


def conditions(report: Report) -> list[tuple[str, str]]:
    """What everything was measured on and how, as (name, text)."""
    machine = report.machine
    versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items() if v)
    device = machine["device"] if report.device != "cpu" else machine["cpu_capability"]
    found = [
        ("command", report.command),
        ("config", report.config),
        ("detector", report.detector),
        ("image", f"{report.size[0]} x {report.size[1]} pixels (height x width), one at a time"),
        ("rounds", f"{report.repeats} timed in turns, {report.warmup} before them to warm up"),
        (
            "machine",
            f"{machine['processor']}, {machine['cores']} cores, {threads_of(report)}, "
            f"{device}; {machine['system']}",
        ),
        ("versions", f"Python {machine['python']}, {versions}"),
        ("seed", str(report.seed)),
        ("made", _made(report)),
    ]
    if report.data is not None:
        data = report.data
        trained = "" if data["trained"] is None else f"{data['trained']} images to train on, "
        found.insert(
            3,
            (
                "data",
                f"{data['name']}: {trained}{data['validated']} to validate on with "
                f"{data['boxes']} boxes of {len(data['classes'])} classes",
            ),
        )
    return found


def _made(report: Report) -> str:
    text = f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC in {report.seconds / 60:.1f} minutes"
    return f"{text}, {report.reused} results from earlier runs" if report.reused else text


def as_markdown(report: Report) -> str:
    """The report for a reader of text."""
    summary = summarise(report)
    lines = [f"# {report.detector.split('.')[-1]}: encoders compared", "", summary.headline, ""]
    if summary.tiles:
        cells = [[t.title, t.value, t.note] for t in summary.tiles]
        lines += [*_table(["", "", ""], cells), ""]
    lines += [f"- {point}" for point in summary.points]
    lines += ["", "How sure:", "", *(f"- {caveat}" for caveat in summary.caveats), ""]
    for title, text, columns in sections(report):
        rows = [[column.text(report, row) for column in columns] for row in report.rows]
        lines += [f"## {title}", "", text, "", *_table([c.head for c in columns], rows), ""]
    lines += ["## Measured on", ""]
    lines += [f"- {name}: {_code(name, text)}" for name, text in conditions(report)]
    return "\n".join(lines) + "\n"


def _code(name: str, text: str) -> str:
    return f"`{text}`" if name == "command" and text else text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return lines + ["| " + " | ".join(c.replace("|", "/") for c in row) + " |" for row in rows]


def as_csv(report: Report) -> str:
    """Every number of every variant, in full, a line each."""
    columns = all_columns(report)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([column.key for column in columns])
    for row in report.rows:
        values = [column.get(report, row) for column in columns]
        writer.writerow(["" if value is None else value for value in values])
    return buffer.getvalue()


def as_json(report: Report) -> str:
    """Everything but the pictures."""
    summary = summarise(report)
    record = {"headline": summary.headline, **report.as_record()}
    text = json.dumps(record, indent=1, default=str)
    return _NUMBERS.sub(lambda found: re.sub(r"\s+", " ", found[0]), text) + "\n"
