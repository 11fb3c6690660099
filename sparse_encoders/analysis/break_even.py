"""Break-even of pruning: time of encoders over image size, number of layers and FFN width."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from sparse_encoders.analysis.benchmark import Say
from sparse_encoders.analysis.encoder_benchmark import detector_with, level_shapes, random_tokens
from sparse_encoders.analysis.inputs import image_call, training_call
from sparse_encoders.analysis.latency import StagedCall, Timing, interleaved

if TYPE_CHECKING:
    import pandas as pd

BASELINE = "dense"
PASSES = ("inference", "training step")
#: share of the detector's time that a strategy must save to count as worthwhile
WORTH = 0.1


@dataclass(frozen=True)
class Setting:
    """One cell of a sweep.

    Attributes:
        image_hw: (height, width) in pixels.
        layers: of the encoder.
        ffn: hidden channels of the encoder's FFNs.
        training: a training step, forward and backward, instead of inference.
    """

    image_hw: tuple[int, int]
    layers: int
    ffn: int
    training: bool

    def __str__(self) -> str:
        height, width = self.image_hw
        return f"{height} x {width}, {self.layers} layers, FFN {self.ffn}, {PASSES[self.training]}"


def settings(
    sizes: Sequence[tuple[int, int]],
    layers: Sequence[int],
    ffns: Sequence[int],
    training: Sequence[bool] = (False, True),
) -> Iterator[Setting]:
    """All of them, smallest images first."""
    ordered = sorted(sizes, key=lambda size: size[0] * size[1])
    for size, number, ffn, train in itertools.product(ordered, layers, ffns, training):
        yield Setting(size, number, ffn, train)


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
    import pandas as pd

    names = [BASELINE, *(name for name in names if name != BASELINE)]
    rest: dict[tuple[tuple[int, int], bool], float] = {}
    rows: list[dict[str, Any]] = []
    for cell in cells:
        key = (cell.image_hw, cell.training)
        if key not in rest:
            progress(f"the detector without its encoder, {cell}")
            rest[key] = _rest(cell, repeats, device)
        progress(str(cell))
        timings = _encoders(names, cell, keep_ratio, repeats, device, progress)
        dense = timings[BASELINE]
        for name, timing in timings.items():
            whole = rest[key] + dense.median
            rows.append(
                {
                    "height": cell.image_hw[0],
                    "width": cell.image_hw[1],
                    "tokens": sum(h * w for h, w in level_shapes(cell.image_hw)),
                    "layers": cell.layers,
                    "ffn": cell.ffn,
                    "pass": PASSES[cell.training],
                    "encoder": name,
                    "seconds": timing.median,
                    "share": timing.ratio_to(dense),
                    "rest_seconds": rest[key],
                    "detector_share": (rest[key] + timing.median) / whole,
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
    import pandas as pd

    for report in reports:
        wanted = {("machine", key): value for key, value in alike["machine"].items()}
        wanted["settings", "keep_ratio"] = alike["settings"]["keep_ratio"]
        for (part, key), value in wanted.items():
            if (other := report.get(part, {}).get(key)) != value:
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
    return {
        Setting(
            (int(row["height"]), int(row["width"])),
            int(row["layers"]),
            int(row["ffn"]),
            row["pass"] == PASSES[True],
        )
        for _, row in frame.iterrows()
    }


def smallest_paying(frame: pd.DataFrame, worth: float = WORTH) -> pd.DataFrame:
    """The smallest image from which on a strategy saves ``worth`` of the detector's time.

    Args:
        frame: of :func:`sweep`.
        worth: share of the detector's time.

    Returns:
        A line for each pass, FFN, number of layers and encoder: ``tokens`` and ``image`` of the
        smallest measured size from which on it saves that much at every larger one; None where
        it does not even at the largest.
    """
    import pandas as pd

    rows = []
    keys = ["pass", "ffn", "layers", "encoder"]
    for values, part in frame[frame["encoder"] != BASELINE].groupby(keys, sort=False):
        smallest: Any = None
        for _, row in part.sort_values("tokens", ascending=False).iterrows():
            if row["detector_share"] > 1 - worth:
                break
            smallest = row
        rows.append(
            dict(zip(keys, values, strict=True))
            | {
                "tokens": int(smallest["tokens"]) if smallest is not None else None,
                "image": f"{smallest['height']} x {smallest['width']}"
                if smallest is not None
                else None,
            }
        )
    return pd.DataFrame(rows, dtype=object)


def _encoders(
    names: Sequence[str],
    cell: Setting,
    keep_ratio: float,
    repeats: int,
    device: str,
    progress: Say,
) -> dict[str, Timing]:
    calls: dict[str, Callable[[], object]] = {}
    for name in names:
        try:
            model: Any = detector_with(name, keep_ratio, layers=cell.layers, ffn=cell.ffn)
        except ValueError as error:
            progress(f"left out: {error}")
            continue
        tokens = random_tokens(cell.image_hw, 1, device)
        model = model.to(device).train(cell.training)
        calls[name] = _training_step(model, tokens) if cell.training else _inference(model, tokens)
    return _timings(calls, repeats, device)


def _inference(model: Any, tokens: Any) -> Callable[[], object]:
    @torch.no_grad()
    def call() -> object:
        return model.encoder(tokens, model.detector_parts()).memory

    return call


def _training_step(model: Any, tokens: Any) -> Callable[[], object]:
    """Forward and backward of the encoder alone; what it learns from the detector is left out."""

    def call() -> object:
        model.zero_grad(set_to_none=False)
        memory = model.encoder(tokens, model.detector_parts()).memory
        return memory.square().mean().backward() if memory.requires_grad else memory

    return call


def _rest(cell: Setting, repeats: int, device: str) -> float:
    """Seconds of a whole detector minus those of its encoder, medians over rounds."""
    model: Any = detector_with(BASELINE, 1.0, layers=1, ffn=512).to(device).train(cell.training)
    if not cell.training:
        staged = StagedCall(model, image_call(model, cell.image_hw, device))
        whole = _timings({"detector": staged}, repeats, device)["detector"]
        return whole.median - whole.stage("encoder").median
    tokens = random_tokens(cell.image_hw, 1, device)
    calls = {
        "detector": training_call(model, cell.image_hw, device),
        "encoder": _training_step(model, tokens),
    }
    timings = _timings(calls, repeats, device)
    return timings["detector"].median - timings["encoder"].median


def _timings(
    calls: Mapping[str, Callable[[], object] | StagedCall], repeats: int, device: str
) -> dict[str, Timing]:
    """Of all rounds but the first."""
    *_, (_, timings) = interleaved(calls, repeats, 1, device)
    return timings
