"""What a comparison found: rows, and what follows from their numbers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sparse_encoders.analysis.compare.settings import Variant
from sparse_encoders.analysis.latency import StageTiming
from sparse_encoders.analysis.variants import REFERENCES

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
        return Variant(self.encoder, self.keep_ratio).label

    @property
    def timing(self) -> StageTiming | None:
        """The latency's rounds."""
        return None if self.rounds is None else StageTiming(tuple(self.rounds))

    @property
    def milliseconds(self) -> float | None:
        """Median latency of a pass."""
        return None if self.timing is None else self.timing.total.median * 1000

    def metric(self, name: str) -> float | None:
        """A metric as the evaluators name it."""
        return None if self.accuracy is None else self.accuracy["metrics"].get(name)

    @property
    def ap(self) -> float | None:
        """COCO box AP in [0, 1]."""
        return self.metric(AP)

    def madds(self, group: str) -> float | None:
        """Multiply-adds in G of a part, of a group of parts ('encoder'), or the 'total'."""
        return self._sum("madds", group, 1e9)

    def parameters(self, group: str) -> float | None:
        """Parameters in millions, as :meth:`madds`."""
        return self._sum("parameters", group, 1e6)

    def _sum(self, key: str, group: str, unit: float) -> float | None:
        if self.complexity is None:
            return None
        parts: dict[str, Any] = self.complexity["parts"]
        chosen = [
            part[key]
            for name, part in parts.items()
            if group == "total" or name == group or name.startswith(group + ".")
        ]
        return sum(chosen) / unit


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
        seconds = sorted(self.reference.timing.total.seconds)
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
        mine, theirs = _resamples(row), _resamples(other)
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
        theirs = None if self.reference is None else self.reference.madds("total")
        mine = row.madds("total")
        return None if mine is None or not theirs else mine / theirs

    def time_share(self, row: Row) -> float | None:
        """Latency over the reference's, in the same round; median over rounds."""
        reference = self.reference
        if row.timing is None or reference is None or reference.timing is None:
            return None
        return row.timing.total.ratio_to(reference.timing.total)

    def speed_verdict(self, row: Row) -> str:
        """'equal', 'faster' or 'slower' than the reference; '' where unknown.

        Equal are shares within 3%, and where the rounds' middle half has both signs.
        """
        share, reference = self.time_share(row), self.reference
        if share is None or reference is None or row.timing is None or reference.timing is None:
            return ""
        ratios = sorted(row.timing.total.ratios_to(reference.timing.total))
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


def _resamples(row: Row | None) -> Sequence[float]:
    return [] if row is None or row.accuracy is None else row.accuracy["resamples"]


def threads_of(report: Report) -> str:
    """Such as '2 threads'."""
    threads = report.machine["threads"]
    return f"{threads} thread{'s' if threads > 1 else ''}"
