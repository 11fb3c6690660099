"""Break-even of pruning: time of encoders over image size, number of layers and FFN width."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from sparse_encoders.analysis.benchmark import Say, benchmark
from sparse_encoders.analysis.encoder_benchmark import (
    detector_with,
    encoder_call,
    level_shapes,
    random_tokens,
)
from sparse_encoders.analysis.inputs import image_call, training_call
from sparse_encoders.analysis.latency import StagedCall, interleaved

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BASELINE = "dense"
PASSES = ("inference", "training step")
#: share of the detector's time that a strategy must save to count as worthwhile
WORTH = 0.1
#: of :func:`sweep`, what a :class:`Setting` holds
COLUMNS = ["height", "width", "layers", "ffn", "pass"]


class Setting(NamedTuple):
    """One cell of a sweep.

    Attributes:
        height: of the image in pixels.
        width: of the image in pixels.
        layers: of the encoder.
        ffn: hidden channels of the encoder's FFNs.
        run: one of :data:`PASSES`; a training step is forward and backward.
    """

    height: int
    width: int
    layers: int
    ffn: int
    run: str

    def __str__(self) -> str:
        return f"{self.height} x {self.width}, {self.layers} layers, FFN {self.ffn}, {self.run}"


def settings(
    sizes: Sequence[tuple[int, int]], layers: Sequence[int], ffns: Sequence[int]
) -> Iterator[Setting]:
    """All of them, smallest images first."""
    ordered = sorted(sizes, key=lambda size: size[0] * size[1])
    for size, number, ffn, run in itertools.product(ordered, layers, ffns, PASSES):
        yield Setting(*size, number, ffn, run)


def sweep(
    names: Sequence[str],
    cells: Sequence[Setting],
    keep_ratio: float = 0.3,
    repeats: int = 3,
    device: str = "cpu",
    progress: Say = lambda message: None,
) -> pd.DataFrame:
    """Time encoders on DINO R50's tokens at each setting, all names in turns.

    The detector's other parts do not depend on the strategy, so their time is measured once for
    each size and pass, in a whole detector with a dense encoder, and ``detector_share`` is
    (rest + encoder) / (rest + dense encoder).

    Args:
        names: encoders by their short names; 'dense' is added where it is missing.
        cells: see :func:`settings`.
        keep_ratio: average keep ratio of those that prune.
        repeats: timed rounds after one that is not.
        device: 'cpu' or a CUDA device.
        progress: called with the name of each setting.

    Returns:
        A line for each setting and encoder: ``height``, ``width``, ``tokens``, ``layers``,
        ``ffn``, ``pass``, ``encoder``, ``seconds`` (median), ``share`` (of dense, median over
        rounds), ``rest_seconds`` and ``detector_share``. An encoder that cannot have so many
        layers (Lite DETR's blocks) has no line there.
    """
    names = [BASELINE, *(name for name in names if name != BASELINE)]
    rest: dict[tuple[int, int, str], float] = {}
    rows: list[dict[str, Any]] = []
    for cell in cells:
        key = (cell.height, cell.width, cell.run)
        if key not in rest:
            progress(f"the detector without its encoder, {cell}")
            rest[key] = _rest(cell, repeats, device)
        progress(str(cell))
        calls = _encoders(names, cell, keep_ratio, device, progress)
        timed = benchmark(calls, repeats, device=device, memory=False)
        for name, line in timed.iterrows():
            whole = rest[key] + timed.seconds[BASELINE]
            rows.append(
                {
                    "height": cell.height,
                    "width": cell.width,
                    "tokens": sum(h * w for h, w in level_shapes((cell.height, cell.width))),
                    "layers": cell.layers,
                    "ffn": cell.ffn,
                    "pass": cell.run,
                    "encoder": name,
                    "seconds": line.seconds,
                    "share": line.share_of_first,
                    "rest_seconds": rest[key],
                    "detector_share": (rest[key] + line.seconds) / whole,
                }
            )
    return pd.DataFrame(rows)


def joined(reports: Sequence[Mapping[str, Any]], alike: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of earlier sweeps as one table.

    Args:
        reports: what ``tools/benchmark_encoders.py --json`` wrote, read.
        alike: its ``machine`` and ``settings["keep_ratio"]`` must be theirs, too.

    Raises:
        ValueError: a report of another machine, version or setting, whose times cannot be
            compared; or one without the rows of a sweep.
    """
    same = [*(("machine", key) for key in alike["machine"]), ("settings", "keep_ratio")]
    for report in reports:
        for part, key in same:
            if (other := report.get(part, {}).get(key)) != (value := alike[part][key]):
                raise ValueError(
                    f"--join: {part}.{key} is {other!r} in one and {value!r} in the other; their "
                    "times do not belong into one table"
                )
        if not report["rows"] or "detector_share" not in report["rows"][0]:
            raise ValueError(
                "--join: a report without the rows of a sweep (--sizes, --layers, --ffn)"
            )
    rows = [row for report in reports for row in report["rows"]]
    return pd.DataFrame(rows).drop(columns="index", errors="ignore")


def measured(frame: pd.DataFrame) -> set[Setting]:
    """The settings that a table of :func:`sweep` has lines for."""
    cells = frame.reindex(columns=COLUMNS).itertuples(index=False, name=None)
    return {Setting(*cell) for cell in cells}


def smallest_paying(frame: pd.DataFrame) -> pd.DataFrame:
    """The smallest image from which on a strategy saves :data:`WORTH` of the detector's time.

    Args:
        frame: of :func:`sweep`.

    Returns:
        A line for each pass, FFN, number of layers and encoder: ``tokens`` and ``image`` of the
        smallest measured size from which on it saves that much at every larger one; None where
        it does not even at the largest.
    """
    rows = []
    keys = ["pass", "ffn", "layers", "encoder"]
    for values, part in frame[frame["encoder"] != BASELINE].groupby(keys, sort=False):
        part = part.sort_values("tokens", ascending=False)
        paying = part[part["detector_share"].le(1 - WORTH).cummin()].to_dict("records")
        tokens, image = None, None
        if paying:
            tokens, image = paying[-1]["tokens"], "{height} x {width}".format(**paying[-1])
        rows.append(dict(zip(keys, values, strict=True), tokens=tokens, image=image))
    return pd.DataFrame(rows, dtype=object)


def draw(frame: pd.DataFrame) -> Figure:
    """A picture of shares of dense over the number of tokens.

    A column for each number of layers, a row for each FFN width, of the encoder and, below, of
    the detector. Inference is drawn in full lines, training steps in dashed ones. The dotted line
    is where :data:`WORTH` of the detector's time is saved.

    Args:
        frame: of :func:`sweep`.
    """
    from matplotlib.figure import Figure

    layers, ffns = sorted(frame["layers"].unique()), sorted(frame["ffn"].unique())
    rows = list(itertools.product(("share", "detector_share"), ffns))
    size = (3.1 * len(layers), 2.4 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), len(layers), sharex=True, sharey=True, squeeze=False)
    for line_of_axes, (column, ffn) in zip(axes, rows, strict=True):
        for axis, number in zip(line_of_axes, layers, strict=True):
            _draw_shares(axis, frame, (frame["layers"] == number) & (frame["ffn"] == ffn), column)
        part = "encoder" if column == "share" else "detector"
        line_of_axes[0].set_ylabel(f"{part}, FFN {ffn}:\nshare of dense")
    for axis, number in zip(axes[0], layers, strict=True):
        axis.set_title(f"{number} layer{'s' if number > 1 else ''}")
    for axis in axes[-1]:
        axis.set_xlabel("tokens")
    axes[0][-1].legend(fontsize=8)
    return figure


def _draw_shares(axis: Axes, frame: pd.DataFrame, chosen: pd.Series, column: str) -> None:
    """Every strategy's share of dense in the chosen lines; the colours are those of all lines."""
    axis.axhline(1, color="0.5", linewidth=1)
    if column == "detector_share":
        axis.axhline(1 - WORTH, color="0.5", linewidth=1, linestyle=":")
    names = [name for name in frame["encoder"].unique() if name != BASELINE]
    for index, name in enumerate(names):
        for run, style in zip(PASSES, ("-", "--"), strict=True):
            lines = frame[chosen & (frame["encoder"] == name) & (frame["pass"] == run)]
            lines = lines.sort_values("tokens")
            label = name if run == PASSES[0] else None
            axis.plot(lines["tokens"], lines[column], f"C{index}{style}", marker=".", label=label)
    axis.set(xscale="log", ylim=(0, 1.4))
    axis.grid(alpha=0.2)


def _encoders(
    names: Sequence[str], cell: Setting, keep_ratio: float, device: str, progress: Say
) -> dict[str, Callable[[], object]]:
    """Name to a call of the encoder alone, of those that can have so many layers."""
    calls: dict[str, Callable[[], object]] = {}
    for name in names:
        try:
            model: Any = detector_with(name, keep_ratio, layers=cell.layers, ffn=cell.ffn)
        except ValueError as error:
            progress(f"left out: {error}")
        else:
            calls[name] = _call(model.to(device), cell, device)
    return calls


def _call(model: Any, cell: Setting, device: str) -> Callable[[], object]:
    """The encoder alone; what it learns from the detector is left out of a training step."""
    tokens = random_tokens((cell.height, cell.width), 1, device)
    if cell.run == PASSES[0]:
        return encoder_call(model, tokens)
    model.train()

    def call() -> object:
        model.zero_grad(set_to_none=False)
        memory = model.encoder(tokens, model.detector_parts()).memory
        return memory.square().mean().backward() if memory.requires_grad else memory

    return call


def _rest(cell: Setting, repeats: int, device: str) -> float:
    """Seconds of a whole detector minus those of its encoder, medians over rounds."""
    model: Any = detector_with(BASELINE, 1.0, layers=1, ffn=512).to(device)
    size = (cell.height, cell.width)
    if cell.run == PASSES[0]:
        staged = StagedCall(model, image_call(model, size, device))
        *_, (_, timings) = interleaved({"detector": staged}, repeats, 1, device)
        return timings["detector"].median - timings["detector"].stage("encoder").median
    encoder = _call(model, cell, device)
    calls = {"detector": training_call(model, size, device), "encoder": encoder}
    seconds = benchmark(calls, repeats, device=device, memory=False).seconds
    return float(seconds["detector"] - seconds["encoder"])
