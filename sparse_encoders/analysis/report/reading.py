"""A report from files: its own, and those of training runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from sparse_encoders.analysis.report.results import Report, Row
from sparse_encoders.analysis.report.runs import Run, first_difference, read_runs
from sparse_encoders.analysis.variants import is_control


def read_report(path: str | Path) -> Report:
    """A report from its ``report.json``, or from a folder with the files of training runs.

    A folder's ``report.json`` has the costs; where there is none, the report is of AP alone. The
    pictures are in neither.

    Raises:
        ValueError: there is no such file, or it is no report; or the runs are of several studies.
    """
    path = Path(path)
    if not path.is_dir():
        return _read(path)
    runs = list(read_runs(path).values())
    first = {run.encoder: run.settings for run in reversed(runs)}
    for run in runs:
        other = first_difference(first[run.encoder], run.settings)
        other = other or first_difference(runs[0].settings["data"], run.settings["data"], "data")
        if other is not None:
            raise ValueError(f"{path} holds runs of several studies: of {run.encoder}, {other}")
    whole = path / "report.json"
    report = _read(whole) if whole.is_file() else _of_runs(runs)
    for row in report.rows:
        own = [run for run in runs if run.encoder == row.encoder]
        if own:
            row.take(own)
    return report


def _read(path: Path) -> Report:
    try:
        record: Mapping[str, Any] = json.loads(path.read_text())
        rows = [_read_row(row) for row in record["rows"]]
        return Report(**{**_known(Report, record), "rows": rows, "pictures": []})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no report.json of a comparison: {error!r}") from error


def _of_runs(runs: list[Run]) -> Report:
    """A report without costs, the first of its rows the baseline."""
    rows: list[Row] = []
    for run in sorted(runs, key=lambda run: run.encoder != "dense"):
        for key in run.accuracy:
            row = Row(run.encoder, float(key) if key else None, is_control(run.encoder))
            if row not in rows:
                rows.append(row)
    first = runs[0]
    return Report(
        command="",
        config="",
        detector=first.settings["model"]["type"],
        size=(0, 0),
        device="cpu",
        warmup=0,
        seed=first.seed or 0,
        baseline=rows[0].label,
        machine=first.machine,
        data=first.data,
        rows=rows,
        made=first.made,
    )


def _read_row(record: Mapping[str, Any]) -> Row:
    row = Row(**{"control": is_control(record["encoder"]), **_known(Row, record)})
    if record.get("accuracy"):  # of before there were several runs
        row.runs = [{"seed": None, **record["accuracy"]}]
    return row


def _known(kind: Any, record: Mapping[str, Any]) -> dict[str, Any]:
    return {f.name: record[f.name] for f in fields(kind) if f.name in record}
