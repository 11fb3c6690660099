"""The columns of the report's tables: what each number is, its unit and its digits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sparse_encoders.analysis.compare.results import AP, Report, Row
from sparse_encoders.analysis.latency import STAGES

Value = float | str | None


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: name in the CSV file.
        title: name in a table's head.
        unit: of the numbers; '' for shares and words.
        get: the value of a row.
        digits: behind the point.
        note: what it is, in a sentence.
        sign: show a plus.
    """

    key: str
    title: str
    unit: str
    get: Callable[[Report, Row], Value]
    digits: int = 2
    note: str = ""
    sign: bool = False

    @property
    def head(self) -> str:
        """Title with unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def text(self, report: Report, row: Row) -> str:
        """The value as shown."""
        value = self.get(report, row)
        if value is None or value == "":
            return "-"
        if isinstance(value, str):
            return value
        return f"{value:{'+' if self.sign else ''}.{self.digits}f}"


def _metric(key: str, title: str, name: str, note: str = "", digits: int = 3) -> Column:
    return Column(key, title, "", lambda report, row: row.metric(name), digits, note)


def _stage(name: str) -> Column:
    def get(report: Report, row: Row) -> Value:
        return None if row.timing is None else row.timing.stage(name).median * 1000

    key = f"latency_{name.replace(' ', '_')}_ms"
    return Column(key, name, "ms", get, 1, "median over the rounds")


def _spread(place: int) -> Callable[[Report, Row], Value]:
    return lambda report, row: None if row.timing is None else row.timing.total.spread[place] * 1000


def _speedup(report: Report, row: Row) -> Value:
    share = report.time_share(row)
    return None if share is None else 1 / share


def _share(part: Callable[[Row], float | None]) -> Callable[[Report, Row], Value]:
    """Of the reference's, in percent."""

    def get(report: Report, row: Row) -> Value:
        mine, theirs = part(row), report.reference and part(report.reference)
        return None if mine is None or not theirs else 100 * mine / theirs

    return get


def _weights(row: Row, key: str) -> Value:
    value: Value = (row.weights or {}).get(key)
    return value


def _source(report: Report, row: Row) -> Value:
    weights = row.weights or {}
    if weights.get("source") == "trained":
        epochs = weights["epochs"]
        return f"trained {epochs} epoch{'s' if epochs > 1 else ''}"
    return str(weights.get("source", "")).replace("none", "random")


def _loss(place: int) -> Callable[[Report, Row], Value]:
    def get(report: Report, row: Row) -> Value:
        losses = (row.weights or {}).get("losses")
        return losses[place] if losses else None

    return get


ENCODER = Column("encoder", "encoder", "", lambda report, row: row.encoder)
RATIO = Column(
    "keep_ratio",
    "keep ratio",
    "",
    lambda report, row: row.keep_ratio,
    2,
    "share of the tokens that encoder layers refine, on average over layers",
)
AP_COLUMN = _metric("ap", "AP", AP, "COCO box AP, mean over IoU 0.50 to 0.95")
GAIN = Column(
    "ap_gain", "AP gain", "", lambda r, row: r.ap_gain(row), 3, "AP less the baseline's", True
)
MARGIN = Column(
    "ap_margin",
    "equal within",
    "",
    lambda r, row: None if r.ap_gain(row) is None else r.ap_margin(row),
    3,
    "gains up to this are called equal",
)
LATENCY = Column(
    "latency_ms", "latency", "ms", lambda r, row: row.milliseconds, 1, "median, one image"
)
SPEEDUP = Column(
    "speedup", "speed", "x baseline", _speedup, 2, "in the same round; median over rounds"
)
MADDS = Column(
    "gmadds", "multiply-adds", "G", lambda r, row: row.madds("total"), 2, "one image, all parts"
)
MADDS_ENCODER = Column(
    "gmadds_encoder", "of which encoder", "G", lambda r, row: row.madds("encoder"), 2
)
MEMORY = Column(
    "peak_mib", "peak memory", "MiB", lambda r, row: row.memory_mib, 0, "beyond weights and image"
)
STATUS = Column("status", "status", "", lambda r, row: "ok" if row.error is None else "FAILED")
CORR = _metric(
    "corr", "Corr", "tokens/corr_all", "share of the decoder's attention on the kept tokens"
)
RECALL = _metric("recall", "recall", "tokens/recall", "share of foreground tokens kept")

OVERVIEW = (
    ENCODER, RATIO, AP_COLUMN, GAIN, MARGIN, LATENCY, SPEEDUP, MADDS, MADDS_ENCODER, MEMORY, STATUS
)  # fmt: skip
ACCURACY = (
    ENCODER,
    RATIO,
    AP_COLUMN,
    _metric("ap50", "AP50", AP + "_50", "at IoU 0.50"),
    _metric("ap75", "AP75", AP + "_75", "at IoU 0.75"),
    _metric("ap_small", "AP small", AP + "_s", "objects below 32 x 32 pixels"),
    _metric("ap_medium", "AP medium", AP + "_m"),
    _metric("ap_large", "AP large", AP + "_l", "objects from 96 x 96 pixels"),
    CORR,
    _metric("corr_top10", "Corr top 10%", "tokens/corr_top10", "of the 10% best-scored tokens"),
    RECALL,
    _metric("recall_small", "recall small", "tokens/recall_layer0_small", "first layer"),
    _metric("recall_medium", "recall medium", "tokens/recall_layer0_medium", "first layer"),
    _metric("recall_large", "recall large", "tokens/recall_layer0_large", "first layer"),
)
LATENCIES = (
    ENCODER,
    RATIO,
    LATENCY,
    Column("latency_fastest_ms", "fastest", "ms", _spread(0), 1, "of all rounds"),
    Column("latency_slowest_ms", "slowest", "ms", _spread(1), 1, "of all rounds"),
    SPEEDUP,
    *(_stage(name) for name in STAGES),
    MEMORY,
    Column(
        "memory_share", "of baseline", "%", _share(lambda row: row.memory_mib), 0, "peak memory"
    ),
)
COMPLEXITY_HEAD = (
    ENCODER,
    RATIO,
    MADDS,
    Column(
        "madds_share", "of baseline", "%", _share(lambda row: row.madds("total")), 0, "of all parts"
    ),
    MADDS_ENCODER,
    Column(
        "madds_encoder_share", "of its encoder", "%", _share(lambda row: row.madds("encoder")), 0
    ),
    Column("mparameters", "parameters", "M", lambda r, row: row.parameters("total"), 2),
)
TRAINING = (
    ENCODER,
    RATIO,
    Column("weights", "weights", "", _source),
    Column(
        "trained_keep_ratio",
        "trained at ratio",
        "",
        lambda r, row: _weights(row, "trained_keep_ratio"),
    ),
    Column("training_seconds", "training", "s", lambda r, row: _weights(row, "seconds"), 0),
    Column("loss_first", "loss, first tenth", "", _loss(0)),
    Column("loss_last", "last tenth", "", _loss(1)),
)


def part_columns(report: Report) -> tuple[Column, ...]:
    """Multiply-adds of each part that any of the rows has."""
    parts = dict.fromkeys(
        part for row in report.rows if row.complexity for part in row.complexity["parts"]
    )

    def column(part: str) -> Column:
        key = f"gmadds_{part.replace('.', '_')}"
        return Column(key, part, "G", lambda r, row: _part(row, part))

    return (*COMPLEXITY_HEAD, *(column(part) for part in parts))


def _part(row: Row, part: str) -> Value:
    if row.complexity is None or part not in row.complexity["parts"]:
        return None
    return float(row.complexity["parts"][part]["madds"]) / 1e9


def all_columns(report: Report) -> tuple[Column, ...]:
    """Every column once, for the CSV file."""
    found = (*OVERVIEW, *ACCURACY, *LATENCIES, *part_columns(report), *TRAINING)
    error = Column("error", "error", "", lambda r, row: row.error)
    return (*{column.key: column for column in found}.values(), error)
