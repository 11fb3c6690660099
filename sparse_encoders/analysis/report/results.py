"""What a comparison measured: rows, and the verdicts that follow from their numbers."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sparse_encoders.analysis.latency import Timing
from sparse_encoders.analysis.variants import REFERENCES, label

AP = "coco/bbox_mAP"
#: faster or slower by less than this share is called equal
SAME_SPEED = 0.03


@dataclass
class Row:
    """One variant's numbers; None where something was not measured.

    Attributes:
        encoder: its name.
        keep_ratio: share of tokens kept, on average over layers.
        error: what went wrong.
        weights: source, file, epochs, seconds, losses, finite, trained_keep_ratio.
        complexity: record of :class:`sparse_encoders.analysis.complexity.Complexity`.
        memory_mib: peak memory of a pass beyond weights and image.
        rounds: seconds of each stage, round by round.
        accuracy: ``metrics``, ``resamples``, ``images``, ``seconds``.
    """

    encoder: str
    keep_ratio: float | None = None
    error: str | None = None
    weights: dict[str, Any] | None = None
    complexity: dict[str, Any] | None = None
    memory_mib: float | None = None
    rounds: list[tuple[float, ...]] | None = None
    accuracy: dict[str, Any] | None = None

    @property
    def label(self) -> str:
        """Such as 'focus 0.3'."""
        return label(self.encoder, self.keep_ratio)

    @property
    def timing(self) -> Timing | None:
        """The latency's rounds."""
        return None if self.rounds is None else Timing(tuple(map(tuple, self.rounds)))

    @property
    def milliseconds(self) -> float | None:
        """Median latency of a pass."""
        return None if self.timing is None else self.timing.median * 1000

    def metric(self, name: str) -> float | None:
        """A metric as the evaluators name it."""
        return None if self.accuracy is None else self.accuracy["metrics"].get(name)

    @property
    def ap(self) -> float | None:
        """COCO box AP in [0, 1]."""
        return self.metric(AP)

    @property
    def resamples(self) -> Sequence[float]:
        """AP of sets of images drawn from the validation images; empty where none were."""
        return (self.accuracy or {}).get("resamples") or []

    @property
    def ap_interval(self) -> float:
        """Half-width of the 95% interval of AP over resampled images; 0 where unknown."""
        return 1.96 * statistics.stdev(self.resamples) if len(self.resamples) > 1 else 0.0

    def parts(self, key: str = "madds") -> dict[str, float]:
        """Multiply-adds in G, or parameters in M, of each part of the detector."""
        unit = 1e9 if key == "madds" else 1e6
        return {n: p[key] / unit for n, p in (self.complexity or {}).get("parts", {}).items()}

    def madds(self, group: str = "total", key: str = "madds") -> float | None:
        """Multiply-adds in G of a part, of a group of parts ('encoder'), or the 'total'."""
        if self.complexity is None:
            return None
        parts = self.parts(key).items()
        return sum(v for n, v in parts if group in ("total", n) or n.startswith(f"{group}."))


@dataclass
class Report:
    """A whole comparison.

    Attributes:
        command: that made it.
        config: as the command has it.
        detector: type of the detector.
        size: (height, width) in pixels of the measured image.
        device: as the command has it.
        warmup: rounds before the latency's.
        seed: of training.
        noise: differences in AP up to this are called equal, at least.
        baseline: label of the row that the others are compared to.
        machine: see :func:`sparse_encoders.analysis.machine.describe_machine`.
        data: name, classes, counts; None where no accuracy was measured.
        rows: the variants.
        pictures: title and JPEG in base64.
        seconds: that the run took.
        reused: results taken over from earlier runs.
        made: when it was measured, as a text.
    """

    command: str
    config: str
    detector: str
    size: tuple[int, int]
    device: str
    warmup: int
    seed: int
    noise: float
    baseline: str
    machine: dict[str, Any]
    data: dict[str, Any] | None
    rows: list[Row]
    pictures: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    reused: int = 0
    made: str = ""

    @property
    def reference(self) -> Row | None:
        """The row that the others are compared to; None where it failed."""
        row = next(row for row in self.rows if row.label == self.baseline)
        return row if row.error is None else None

    @property
    def good(self) -> list[Row]:
        """The rows without an error."""
        return [row for row in self.rows if row.error is None]

    @property
    def contenders(self) -> list[Row]:
        """The rows without an error, floor and ceiling left out."""
        return [row for row in self.good if row.encoder not in REFERENCES]

    @property
    def failed(self) -> list[Row]:
        """The rows with one."""
        return [row for row in self.rows if row.error is not None]

    @property
    def repeats(self) -> int:
        """Timed rounds of the latency."""
        return max((len(row.rounds) for row in self.rows if row.rounds), default=0)

    @property
    def unsteadiness(self) -> float:
        """How much longer the slow quarter of the reference's rounds took than the fast one."""
        if self.reference is None or self.reference.timing is None:
            return 0.0
        seconds = sorted(self.reference.timing.seconds)
        quarter = len(seconds) // 4
        return seconds[-1 - quarter] / seconds[quarter] - 1

    @property
    def encoders(self) -> list[str]:
        """Names in the order of the rows."""
        return list(dict.fromkeys(row.encoder for row in self.rows))

    def ap_gain(self, row: Row, other: Row | None = None) -> float | None:
        """AP of a row less that of another, or of the reference."""
        other = other or self.reference
        if other is None or other is row or row.ap is None or other.ap is None:
            return None
        return row.ap - other.ap

    def ap_margin(self, row: Row, other: Row | None = None) -> float:
        """Differences in AP up to this are called equal.

        The larger of ``noise`` and the half-width of a 95% interval (1.96 standard
        deviations) of the difference over resampled sets of validation images.
        """
        other = other or self.reference
        mine, theirs = row.resamples, [] if other is None else other.resamples
        if len(mine) < 2 or len(mine) != len(theirs):
            return self.noise
        spread = statistics.stdev(a - b for a, b in zip(mine, theirs, strict=True))
        return max(self.noise, 1.96 * spread)

    def ap_verdict(self, row: Row, other: Row | None = None) -> str:
        """'equal', 'higher' or 'lower' AP than another row's; '' where unknown."""
        gain = self.ap_gain(row, other)
        if gain is None:
            return ""
        if abs(gain) <= self.ap_margin(row, other):
            return "equal"
        return "higher" if gain > 0 else "lower"

    def work_share(self, row: Row) -> float | None:
        """Multiply-adds of all parts over the reference's."""
        mine, theirs = row.madds(), self.reference and self.reference.madds()
        return None if mine is None or not theirs else mine / theirs

    def time_ratios(self, row: Row) -> list[float]:
        """Latency over the reference's in the same round, in rising order; empty where unknown."""
        if row.timing is None or self.reference is None or self.reference.timing is None:
            return []
        return sorted(row.timing.ratios_to(self.reference.timing))

    def time_share(self, row: Row) -> float | None:
        """Median over rounds of the latency over the reference's in the same round."""
        ratios = self.time_ratios(row)
        return statistics.median(ratios) if ratios else None

    def speed_verdict(self, row: Row) -> str:
        """'equal', 'faster' or 'slower' than the reference; '' where unknown.

        Equal are shares within 3%, and where the rounds' middle half has both signs.
        """
        ratios, share = self.time_ratios(row), self.time_share(row)
        if share is None:
            return ""
        quarter = len(ratios) // 4
        middle = ratios[quarter : len(ratios) - quarter]
        if abs(share - 1) < SAME_SPEED or middle[0] <= 1 <= middle[-1]:
            return "equal"
        return "faster" if share < 1 else "slower"

    def as_accurate(self) -> list[Row]:
        """The contenders besides the reference whose AP is equal to its or higher."""
        return [row for row in self.contenders if self.ap_verdict(row) in ("equal", "higher")]

    def as_record(self) -> dict[str, Any]:
        """For JSON, without the pictures."""
        record = asdict(self)
        record["pictures"] = [picture["title"] for picture in self.pictures]
        for row, own in zip(self.rows, record["rows"], strict=True):
            own["label"] = row.label
            own["ap_gain"], own["ap_verdict"] = self.ap_gain(row), self.ap_verdict(row)
            own["ap_margin"] = None if self.ap_gain(row) is None else self.ap_margin(row)
            own["time_share"] = self.time_share(row)
        return record


def read_report(path: str | Path) -> Report:
    """A report from its ``report.json``; the pictures are not in it.

    Raises:
        ValueError: the file is none, or is no report.
    """
    try:
        record: Mapping[str, Any] = json.loads(Path(path).read_text())
        rows = [Row(**_known(Row, row)) for row in record["rows"]]
        return Report(**{**_known(Report, record), "rows": rows, "pictures": []})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no report.json of a comparison: {error!r}") from error


def _known(kind: Any, record: Mapping[str, Any]) -> dict[str, Any]:
    return {f.name: record[f.name] for f in fields(kind) if f.name in record}
