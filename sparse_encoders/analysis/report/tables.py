"""The report's tables: one pandas frame of all numbers, and its sections as they are shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd

from sparse_encoders.analysis.latency import STAGES
from sparse_encoders.analysis.report.ranking import front
from sparse_encoders.analysis.report.results import AP, Report, Row
from sparse_encoders.analysis.report.summary import WORDS

NAMES = ("encoder", "keep_ratio")
#: columns, with the names of their metrics
METRICS = {
    "ap": AP,
    "ap50": f"{AP}_50",
    "ap75": f"{AP}_75",
    "ap_small": f"{AP}_s",
    "ap_medium": f"{AP}_m",
    "ap_large": f"{AP}_l",
    "corr": "tokens/corr_all",
    "corr_top10": "tokens/corr_top10",
    "recall": "tokens/recall",
    "recall_small": "tokens/recall_layer0_small",
    "recall_medium": "tokens/recall_layer0_medium",
    "recall_large": "tokens/recall_layer0_large",
}
_STAGES = {name: f"latency_{name.replace(' ', '_')}_ms" for name in STAGES}
#: the columns of each section after the names; a '*' means all parts of the detectors
SECTIONS: dict[str, tuple[str, ...]] = {
    "overview": (
        *("control", "ap", "ap_spread", "ap_gain", "gain_interval", "verdict", "latency_ms"),
        *("speedup", "gmadds", "gmadds_encoder", "peak_mib", "status"),
    ),
    "accuracy": ("runs", "ap", "ap_spread", "ap_interval", *tuple(METRICS)[1:]),
    "latency": (
        *("latency_ms", "latency_fastest_ms", "latency_slowest_ms", "speedup"),
        *(*_STAGES.values(), "peak_mib", "memory_share"),
    ),
    "complexity": (
        *("gmadds", "madds_share", "gmadds_encoder", "madds_encoder_share", "mparameters", "*"),
    ),
    "training": (
        *("weights", "trained_keep_ratio", "training_seconds", "loss_first", "loss_last"),
    ),
}


@dataclass(frozen=True)
class Table:
    """A section of the report: title, a sentence, and numbers in full, a line a variant."""

    title: str
    text: str
    frame: pd.DataFrame

    def shown(self) -> pd.DataFrame:
        """Numbers as texts of the right digits, '-' for nothing."""
        return pd.DataFrame({key: [_text(key, v) for v in self.frame[key]] for key in self.frame})

    def as_markdown(self) -> str:
        """For readers of text."""
        shown = self.shown().replace(r"\|", "/", regex=True)
        heads = [_word(key)["head"] for key in shown]
        markdown: str = shown.to_markdown(index=False, headers=heads, disable_numparse=True)
        return markdown

    def as_html(self, report: Report) -> str:
        """For the page: cells carry their verdicts as classes, heads their notes."""
        shown = self.shown()
        classes = [[_class(report, row, key) for key in shown] for row in report.rows]
        cells = shown.map(escape)
        if "status" in cells:
            errors = [row.error or "" for row in report.rows]
            cells["status"] = list(map(_with_note, shown["status"], errors))
        style = cells.style.hide(axis="index").format_index(_head, axis=1)
        style.set_td_classes(pd.DataFrame(classes, columns=shown.columns))
        html: str = style.to_html()
        return html


def all_numbers(report: Report) -> pd.DataFrame:
    """Every number of every variant in full, a line a variant; the columns are the CSV file's."""
    rows = [_values(report, row) for row in report.rows]
    keys = [*NAMES, *(k for keys in SECTIONS.values() for k in _columns(report, keys)), "error"]
    return pd.DataFrame(rows, dtype=object).reindex(columns=list(dict.fromkeys(keys)))


def tables(report: Report) -> list[Table]:
    """The sections, columns without a number left out."""
    numbers, sections = all_numbers(report), []
    known = numbers.notna().any()
    # a part of the detector that costs nothing is left out, too
    known.update(numbers.filter(like="gmadds_").fillna(0.0).astype(bool).any())
    names = [key for key in NAMES if key == "encoder" or known[key]]
    for name, keys in SECTIONS.items():
        kept = [key for key in _columns(report, keys) if known[key]]
        if kept:
            title, text = WORDS["sections"][name]
            frame = numbers[[*names, *kept]]
            sections.append(Table(title, text.format(base=report.baseline), frame))
    return sections


def _columns(report: Report, keys: tuple[str, ...]) -> list[str]:
    parts = dict.fromkeys(_part_key(name) for row in report.rows for name in row.parts())
    return [column for key in keys for column in (parts if key == "*" else [key])]


def _part_key(part: str) -> str:
    return f"gmadds_{part.replace('.', '_')}"


def _values(report: Report, row: Row) -> dict[str, Any]:
    """Every number of a row by its key; None where there is none."""
    share, gain, own = report.time_share(row), report.gain(row), row.estimate
    values = {
        "encoder": row.encoder,
        "keep_ratio": row.keep_ratio,
        "control": "yes" if row.control else None,
        "runs": len(row.runs) or None,
        "ap_spread": own and own.spread,
        "ap_interval": own and own.half_width(),
        "ap_gain": gain and gain.mean,
        "gain_interval": gain and gain.half_width(),
        "verdict": report.ap_verdict(row) or None,
        "speedup": None if share is None else 1 / share,
        "latency_ms": row.milliseconds,
        "gmadds": row.madds(),
        "gmadds_encoder": row.madds("encoder"),
        "mparameters": row.madds(key="parameters"),
        "peak_mib": row.memory_mib,
        "status": "ok" if row.error is None else "FAILED",
        "error": row.error,
        **{key: row.metric(name) for key, name in METRICS.items()},
        **{_part_key(name): madds for name, madds in row.parts().items()},
        **_training(row.weights or {}),
    }
    if row.timing is not None:
        low, high = row.timing.spread
        values |= {"latency_fastest_ms": low * 1000, "latency_slowest_ms": high * 1000}
        values |= {key: row.timing.stage(name).median * 1000 for name, key in _STAGES.items()}
    base = report.reference
    for key, mine, theirs in (
        ("memory_share", row.memory_mib, base and base.memory_mib),
        ("madds_share", row.madds(), base and base.madds()),
        ("madds_encoder_share", row.madds("encoder"), base and base.madds("encoder")),
    ):
        values[key] = None if mine is None or not theirs else 100 * mine / theirs
    return values


def _training(weights: dict[str, Any]) -> dict[str, Any]:
    source = str(weights.get("source", "")).replace("none", "random")
    if source == "trained":
        source = f"trained {weights['epochs']} epoch{'s' if weights['epochs'] > 1 else ''}"
    first, last = weights.get("losses") or (None, None)
    ratio, drawn = weights.get("trained_keep_ratio"), weights.get("trained_keep_range")
    return {
        "weights": source or None,
        "trained_keep_ratio": "{:g} to {:g}".format(*drawn) if drawn else ratio,
        "training_seconds": weights.get("seconds"),
        "loss_first": first,
        "loss_last": last,
    }


def _word(key: str) -> dict[str, Any]:
    """Head, digits and note of a column."""
    columns: dict[str, dict[str, Any]] = WORDS["columns"]
    if key in columns:
        return columns[key]
    stages = {column: name for name, column in _STAGES.items()}
    part = re.sub(r"^(encoder|first_stage)_", r"\1.", key.removeprefix("gmadds_"))
    name = stages.get(key, part)
    word = columns["latency_stage" if key in stages else "gmadds_part"]
    return word | {"head": word["head"].format(name=name)}


def _head(key: str) -> str:
    word = _word(key)
    return _with_note(word["head"], word.get("note", ""))


def _with_note(text: str, note: str) -> str:
    """HTML of a text that shows a note where the mouse rests on it."""
    return f'<span title="{escape(note)}">{escape(text)}</span>'


def _text(key: str, value: Any) -> str:
    if value is None or value != value or value == "":  # NaN differs from itself
        return "-"
    if isinstance(value, str):
        return value
    word = _word(key)
    return f"{value:{'+' if word.get('sign') else ''}.{word['digits']}f}"


def _class(report: Report, row: Row, key: str) -> str:
    kinds = ["front"] if row in front(report) else []
    if key == "encoder" and row.label == report.baseline:
        kinds.append("baseline")
    if key == "status" and row.error is not None:
        kinds.append("bad")
    verdicts = {"verdict": report.ap_verdict, "speedup": report.speed_verdict}
    if key in verdicts:
        kinds.append(verdicts[key](row))
    return " ".join(kinds)
