"""Results of a comparison: rows, and the verdicts that follow from their numbers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sparse_encoders.analysis.latency import Timing
from sparse_encoders.analysis.report.estimate import Estimate, estimate
from sparse_encoders.analysis.report.runs import Run
from sparse_encoders.analysis.variants import ORACLE, label

AP = "coco/bbox_mAP"
#: faster or slower by less than this share is called equal
SAME_SPEED = 0.03


@dataclass
class Row:
    """One variant's numbers; None where something was not measured.

    Attributes:
        encoder: its name.
        keep_ratio: share of tokens kept, on average over layers.
        control: whether it is a control, such as random tokens.
        error: message of the error, if the variant failed.
        weights: where they are from: source, epochs, iterations, batch, schedule, seconds, losses,
            finite, trained_keep_ratio, trained_keep_range, as far as known.
        complexity: record of :class:`sparse_encoders.analysis.complexity.Complexity`.
        memory_mib: peak memory of a pass beyond weights and image.
        rounds: seconds of each stage, round by round.
        runs: accuracy of each training run: ``seed``, ``metrics``, ``resamples``, ``images``.
        lost: runs that failed, and why.
    """

    encoder: str
    keep_ratio: float | None = None
    control: bool = False
    error: str | None = None
    weights: dict[str, Any] | None = None
    complexity: dict[str, Any] | None = None
    memory_mib: float | None = None
    rounds: list[tuple[float, ...]] | None = None
    runs: list[dict[str, Any]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def take(self, runs: Sequence[Run]) -> None:
        """Have the accuracy of finished runs, and how they were trained."""
        self.runs = [own for run in runs if (own := run.of(self.keep_ratio)) is not None]
        if runs:
            seconds = [s for run in runs if (s := run.weights.get("seconds")) is not None]
            mean = statistics.fmean(seconds) if seconds else None
            self.weights = {**runs[0].weights, "seconds": mean}

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
        """A metric as the evaluators name it, mean over runs."""
        values = [run["metrics"].get(name) for run in self.runs]
        return statistics.fmean(values) if values and None not in values else None

    @property
    def ap(self) -> float | None:
        """COCO box AP in [0, 1], mean over runs."""
        return self.metric(AP)

    @property
    def estimate(self) -> Estimate | None:
        """AP with its standard error."""
        return None if self.ap is None else _estimate(self.runs)

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
        margin: AP within this of another's is called equal, where that is sure.
        baseline: label of the row that the others are compared to.
        machine: see :func:`sparse_encoders.analysis.machine.describe_machine`.
        data: name, classes, counts; None where no accuracy was measured.
        rows: the variants.
        pictures: title and JPEG in base64.
        seconds: that the run took.
        reused: results taken over from earlier runs.
        made: when it was measured, as a text.
        matched: what 'dense-matched' is, as a text; empty where it is not compared.
    """

    command: str
    config: str
    detector: str
    size: tuple[int, int]
    device: str
    warmup: int
    seed: int
    baseline: str
    machine: dict[str, Any]
    data: dict[str, Any] | None
    rows: list[Row]
    margin: float = 0.01
    pictures: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    reused: int = 0
    made: str = ""
    matched: str = ""

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
    def judged(self) -> list[Row]:
        """The rows with AP."""
        return [row for row in self.good if row.ap is not None]

    @property
    def contenders(self) -> list[Row]:
        """The rows without an error that could be used: the oracle reads the annotations."""
        return [row for row in self.good if row.encoder != ORACLE]

    @property
    def rivals(self) -> list[Row]:
        """The contenders with AP, the most accurate first."""
        rows = [row for row in self.contenders if row.ap is not None]
        return sorted(rows, key=lambda row: row.ap or 0.0, reverse=True)

    @property
    def repeats(self) -> int:
        """Timed rounds of the latency."""
        return max((len(row.rounds) for row in self.rows if row.rounds), default=0)

    @property
    def seeds(self) -> list[int]:
        """Of the training runs, or what the comparison was given."""
        seeds = {run["seed"] for row in self.rows for run in row.runs} - {None}
        return sorted(seeds) or [self.seed]

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

    def gain(self, row: Row, other: Row | None = None) -> Estimate | None:
        """AP of a row less that of another, or of the reference, over the runs of the same seeds.

        Where they share none, the difference of the means, which then counts as one run.
        """
        other = other or self.reference
        if other is None or other is row or row.ap is None or other.ap is None:
            return None
        theirs = {run["seed"]: run for run in other.runs}
        pairs = [(run, theirs[run["seed"]]) for run in row.runs if run["seed"] in theirs]
        pairs = pairs or [(_mean(row.runs), _mean(other.runs))]
        return _estimate([_difference(mine, own) for mine, own in pairs])

    def ap_verdict(self, row: Row, other: Row | None = None) -> str:
        """'equal' within the margin, 'higher' or 'lower' AP than another row's, or 'undecided'.

        '' where one is unknown.
        """
        gain = self.gain(row, other)
        return "" if gain is None else gain.verdict(self.margin)

    def time_ratios(self, row: Row, other: Row | None = None) -> list[float]:
        """Latency over another row's, or the reference's, in the same round, in rising order.

        Empty where unknown.
        """
        other = other or self.reference
        if row.timing is None or other is None or other.timing is None:
            return []
        return sorted(row.timing.ratios_to(other.timing))

    def time_share(self, row: Row) -> float | None:
        """Median over rounds of the latency over the reference's in the same round."""
        ratios = self.time_ratios(row)
        return statistics.median(ratios) if ratios else None

    def speed_verdict(self, row: Row, other: Row | None = None) -> str:
        """'equal', 'faster' or 'slower' than another row, or the reference; '' where unknown.

        Equal are shares within 3%, and where the rounds' middle half has both signs.
        """
        ratios = self.time_ratios(row, other)
        if not ratios:
            return ""
        quarter, share = len(ratios) // 4, statistics.median(ratios)
        middle = ratios[quarter : len(ratios) - quarter]
        if abs(share - 1) < SAME_SPEED or middle[0] <= 1 <= middle[-1]:
            return "equal"
        return "faster" if share < 1 else "slower"

    def as_record(self) -> dict[str, Any]:
        """For JSON, without the pictures."""
        record = asdict(self)
        record["pictures"] = [picture["title"] for picture in self.pictures]
        for row, own in zip(self.rows, record["rows"], strict=True):
            own["label"], own["ap"], own["ap_verdict"] = row.label, row.ap, self.ap_verdict(row)
            own["ap_gain"] = None if (gain := self.gain(row)) is None else asdict(gain)
            own["time_share"] = self.time_share(row)
        return record


def _mean(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several runs as one: AP and each set's AP are means."""
    sets = zip(*(run["resamples"] for run in runs), strict=False)
    ap = statistics.fmean(run["metrics"][AP] for run in runs)
    return {**runs[0], "metrics": {AP: ap}, "resamples": list(map(statistics.fmean, sets))}


def _difference(run: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """AP, and each set's AP, of a run less that of another."""
    sets = zip(run["resamples"], other["resamples"], strict=False)
    ap = run["metrics"][AP] - other["metrics"][AP]
    return {**run, "metrics": {AP: ap}, "resamples": [mine - own for mine, own in sets]}


def _estimate(runs: Sequence[dict[str, Any]]) -> Estimate:
    """Mean AP of runs."""
    fewest = min(len(run["resamples"]) for run in runs)
    sets = [run["resamples"][:fewest] for run in runs]
    return estimate([run["metrics"][AP] for run in runs], sets, runs[0]["images"])
