"""Time and memory of calls side by side, as a pandas frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sparse_encoders.analysis import require
from sparse_encoders.analysis.latency import Timing, interleaved
from sparse_encoders.analysis.memory import MIB, peak_memory

if TYPE_CHECKING:
    import pandas as pd

Say = Callable[[str], None]
#: titles of the columns and formats of their numbers
HEADS = {
    "seconds": ("median s", "{:.3f}"),
    "fastest": ("fastest", "{:.3f}"),
    "slowest": ("slowest", "{:.3f}"),
    "share_of_first": ("of {first}", "{:.3f}"),
    "peak_mib": ("peak MiB", "{:.0f}"),
    "memory_share_of_first": ("of {first}", "{:.2f}"),
}


def benchmark(
    calls: Mapping[str, Callable[[], object]],
    repeats: int = 5,
    warmup: int = 1,
    device: str = "cpu",
    memory: bool = True,
    say: Say = lambda message: None,
) -> pd.DataFrame:
    """Measure calls: first the memory of each, then the times of all in turns.

    Args:
        calls: name to call; shares are of the first.
        repeats: timed rounds.
        warmup: rounds before them.
        device: where they run.
        memory: whether peak memory is measured.
        say: called with messages about the progress.

    Returns:
        One line for each call, with its name as index: ``seconds`` (median), ``fastest`` and
        ``slowest`` of all rounds, ``share_of_first`` (median over rounds of its time over the first
        call's), ``peak_mib`` (beyond the memory held before the call; None if unknown) and
        ``memory_share_of_first``.
    """
    require("pandas", "tabulate")
    import pandas as pd

    peaks: dict[str, int | None] = dict.fromkeys(calls)
    for name, call in calls.items() if memory else ():
        say(f"memory of {name}")
        call()  # allocates tensors that stay, such as gradients
        peaks[name] = peak_memory(call, device)
    timings: dict[str, Timing] = {}
    for done, timings in interleaved(calls, repeats, warmup, device):
        state = ", ".join(f"{n} {t.seconds[-1]:.2f} s" for n, t in timings.items())
        say(f"round {done} of {repeats}: {state}")
    first = next(iter(calls))
    rows: list[dict[str, Any]] = []
    for name, timing in timings.items():
        peak, base = peaks[name], peaks[first]
        rows.append(
            {
                "seconds": timing.median,
                "fastest": timing.spread[0],
                "slowest": timing.spread[1],
                "share_of_first": timing.ratio_to(timings[first]),
                "peak_mib": None if peak is None else peak / MIB,
                "memory_share_of_first": peak / base if peak and base else None,
            }
        )
    return pd.DataFrame(rows, index=pd.Index(list(timings), name="name"), dtype=object)


def table(frame: pd.DataFrame, first: str | None = None) -> str:
    """A benchmark as a Markdown table; '-' for unknown values.

    Args:
        frame: see :func:`benchmark`.
        first: what shares are of, for the heads of their columns; None: the first line.
    """
    shown = frame.copy()
    for key in HEADS.keys() & set(frame):
        form = HEADS[key][1]
        shown[key] = ["-" if v is None or v != v else form.format(v) for v in frame[key]]
    first = first or frame.index[0]
    shown.columns = [HEADS.get(key, (key,))[0].format(first=first) for key in frame]
    text: str = shown.to_markdown(disable_numparse=True)
    return text


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The lines for JSON, the index first; None for unknown values."""
    whole = frame.reset_index().astype(object)
    lines: list[dict[str, Any]] = whole.where(whole.notna(), None).to_dict("records")
    return lines
