"""The comparison itself: weights, measurements, pictures; then the report."""

from __future__ import annotations

import base64
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import sparse_encoders
from sparse_encoders.analysis import require
from sparse_encoders.analysis.compare.accuracy import Judge
from sparse_encoders.analysis.compare.measure import measure_latency, measure_memory
from sparse_encoders.analysis.compare.plan import Plan, make_plan
from sparse_encoders.analysis.compare.settings import Comparison
from sparse_encoders.analysis.compare.store import Store
from sparse_encoders.analysis.compare.weights import Weights, get_weights, load, trained_ratio
from sparse_encoders.analysis.complexity import count_complexity
from sparse_encoders.analysis.inputs import choose_images
from sparse_encoders.analysis.machine import describe_machine
from sparse_encoders.analysis.report import Report, Row
from sparse_encoders.analysis.variants import is_control, label

Say = Callable[[str], None]
#: dots per inch of pictures: enough to see a token, small enough to travel in the page
DPI = 110


def compare(settings: Comparison, say: Say = lambda line: print(line, flush=True)) -> Report:
    """Measure every variant and write the report into ``settings.out``.

    What was measured before with the same settings is taken from ``settings.out``.
    A variant that fails has its error in its row and ends nothing else.

    Args:
        settings: what to compare.
        say: is told how it goes, a line at a time.

    Raises:
        ValueError: config, data, a checkpoint or a setting is not usable; before
            anything is trained or measured.
    """
    require("jinja2", "pandas", "plotly", "tabulate")
    from sparse_encoders.analysis.report.page import write_report

    start = time.perf_counter()
    warnings.filterwarnings("ignore", message="torch.meshgrid")  # MMDetection's, not the user's
    if settings.out.exists() and not settings.out.is_dir():
        raise ValueError(f"--out must be a folder, got the file {settings.out}")
    settings.out.mkdir(parents=True, exist_ok=True)
    say("checking config, data and checkpoints")
    plan = make_plan(settings)
    report = _Run(plan, say).measured()
    report.seconds = time.perf_counter() - start
    for path in write_report(report, settings.out):
        say(f"written: {path}")
    return report


class _Run:
    """One comparison: what is loaded, and what was measured so far."""

    def __init__(self, plan: Plan, say: Say) -> None:
        self.plan, self.settings, self.say = plan, plan.settings, say
        self.store = Store(self.settings.out / "results")
        self.machine = describe_machine(self.settings.device)
        self.rows = [
            Row(v.encoder, v.keep_ratio, is_control(v.encoder)) for v in self.settings.variants()
        ]
        self.weights: dict[str, Weights] = {}
        self.models: dict[str, Any] = {}
        self.judge: Judge | None = None

    def measured(self) -> Report:
        """Everything, in an order that has the quick failures first."""
        if self.plan.match is not None:
            self.say(str(self.plan.match))
        for name in self.settings.encoders:
            self._get_model(name)
        for row in self.rows:
            self._measure(row)
        self.judge = None  # its workers end before anything is timed
        self._time_all()
        plan, settings = self.plan, self.settings
        return Report(
            command=settings.command,
            config=settings.config,
            detector=plan.detector,
            size=plan.size,
            device=settings.device,
            warmup=settings.warmup,
            seed=settings.seed,
            margin=settings.margin,
            baseline=settings.reference.label,
            machine=self.machine,
            data=None if plan.data is None else plan.data.as_record(),
            matched="" if plan.match is None else str(plan.match),
            rows=self.rows,
            pictures=self._draw(),
            reused=self.store.reused,
            made=f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        )

    def _tell(self, text: str) -> None:
        self.say(f"  {text}")

    def _of(self, name: str) -> list[Row]:
        return [row for row in self.rows if row.encoder == name]

    def _get_model(self, name: str) -> None:
        """Weights and the detector with them; a failure goes into the encoder's rows."""
        try:
            if name in self.plan.unfit:
                raise ValueError(self.plan.unfit[name])
            self.say(f"{name}: weights")
            weights = get_weights(self.plan, name, self._tell)
            model = load(self.plan.configs[name], weights, self.settings.device, self.settings.seed)
        except Exception as error:  # reported in the rows: the others go on
            self._fail(self._of(name), name, error)
            return
        self.weights[name], self.models[name] = weights, model
        if weights.source == "none" and self.plan.data is not None:
            self.say("  random, so no accuracy: name --checkpoints, or --train")
        for row in self._of(name):
            row.weights = {**asdict(weights), "trained_keep_ratio": trained_ratio(model)}

    def _fail(self, rows: list[Row], what: str, error: BaseException) -> None:
        self.say(f"{what}: FAILED: {brief(error)}")
        for row in rows:
            row.error = brief(error)

    def _identity(self, row: Row) -> dict[str, Any]:
        """All that a measurement of a row depends on, but for what it is measured on."""
        return {
            "model": self.plan.configs[row.encoder].model.to_dict(),
            "keep_ratio": row.keep_ratio,
            "weights": self.weights[row.encoder].digest,
            "version": sparse_encoders.__version__,
        }

    def _measure(self, row: Row) -> None:
        """What a row can be measured for by itself."""
        if row.error is not None:
            return
        model, size, device = self.models[row.encoder], self.plan.size, self.settings.device
        self.say(f"[{self.rows.index(row) + 1}/{len(self.rows)}] {row.label}")
        try:
            if row.keep_ratio is not None:
                model.set_keep_ratio(row.keep_ratio)
            same = {**self._identity(row), "size": size}
            row.complexity = self._kept(
                "complexity", row.label, same, lambda: count_complexity(model, size).as_record()
            )
            self.say(f"  multiply-adds: {row.madds() or 0:.2f} G")
            here = {**same, "machine": self.machine}
            row.memory_mib = self._kept(
                "memory", row.label, here, lambda: measure_memory(model, size, device)
            )["peak_mib"]
            if self.plan.data is not None and self.weights[row.encoder].source != "none":
                self._judge_accuracy(row, model)
        except Exception as error:  # reported in the row: the others go on
            self._fail([row], row.label, error)

    def _kept(
        self, kind: str, name: str, settings: dict[str, Any], make: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        found, before = self.store.keep(kind, name, settings, make)
        if before:
            self.say(f"  {kind}: kept from before")
        return found

    def _judge_accuracy(self, row: Row, model: Any) -> None:
        assert self.plan.data is not None
        settings = {
            **self._identity(row),
            "data": self.plan.data.digest,
            "classes": self.plan.data.classes,
            "pipeline": self.plan.base.test_dataloader.to_dict(),
            "device": self.settings.device.split(":")[0],
        }

        def make() -> dict[str, Any]:
            self.judge = self.judge or Judge(self.plan)
            return self.judge.measure(model, self._seldom())

        found = self._kept("accuracy", row.label, settings, make)
        row.runs = [{"seed": None, **found}]
        ap = "-" if row.ap is None else f"{row.ap:.3f}"
        self.say(f"  AP {ap} on {found['images']} images")

    def _seldom(self, pause: float = 15.0) -> Callable[[int, int], None]:
        """Progress over batches, said every ``pause`` seconds."""
        last = time.monotonic()

        def progress(done: int, of: int) -> None:
            nonlocal last
            if time.monotonic() - last > pause:
                last = time.monotonic()
                self.say(f"  batch {done} of {of}")

        return progress

    def _time_all(self) -> None:
        """Latency of all rows that work, in turns."""
        rows = [row for row in self.rows if row.error is None]
        if not rows:
            return
        settings = self.settings
        self.say(f"latency of {len(rows)} variants in turns")
        models = {row.label: (self.models[row.encoder], row.keep_ratio) for row in rows}
        rounds = (settings.repeats, settings.warmup)
        same = {
            "rows": {row.label: self._identity(row) for row in rows},
            "size": self.plan.size,
            "machine": self.machine,
            "rounds": rounds,
        }

        def make() -> dict[str, Any]:
            return measure_latency(models, self.plan.size, settings.device, *rounds, self._tell)

        try:
            found = self._kept("latency", "all", same, make)
        except Exception as error:
            self._fail(rows, "latency of all variants", error)
            return
        for row in rows:
            row.rounds = [tuple(stages) for stages in found["rounds"][row.label]]

    def _draw(self) -> list[dict[str, str]]:
        """Kept tokens of every trained strategy on some images, as JPEG in base64."""
        data, drawn = self.plan.data, []
        shown = [name for name in self.models if self.weights[name].source != "none"]
        if not self.settings.pictures or data is None or not shown:
            return []
        self.say("pictures of kept tokens")
        try:
            for image in choose_images(data.annotations, data.images, self.settings.pictures):
                jpeg = self._draw_image(image, shown)
                if jpeg:
                    drawn.append({"title": image.name, "jpeg": base64.b64encode(jpeg).decode()})
        except Exception as error:
            self.say(f"  FAILED: {brief(error)}")
            return []
        return drawn

    def _draw_image(self, image: Path, names: list[str]) -> bytes:
        """The strategies under each other on one image, as a JPEG file; empty if none can."""
        from sparse_encoders.visualization import pictures as drawing

        records = {}
        for name in names:
            model, ratio = self.models[name], self._picture_ratio(name)
            if ratio is not None:
                model.set_keep_ratio(ratio)
            if not getattr(model.encoder, "needs_boxes", False):  # an image file has none
                records[label(name, ratio)] = drawing.record_tokens(model, image)
        if not records:
            return b""
        return drawing.picture_bytes(drawing.draw_side_by_side(records), DPI, "jpeg")

    def _picture_ratio(self, name: str) -> float | None:
        """The ratio, of those compared, next to the one that an encoder was trained at."""
        rows = [row for row in self._of(name) if row.keep_ratio is not None]
        if not rows:
            return None
        trained = (rows[0].weights or {}).get("trained_keep_ratio") or 0.3
        return min((row.keep_ratio or 1.0 for row in rows), key=lambda ratio: abs(ratio - trained))


def brief(error: BaseException) -> str:
    """An error in a line, without this machine's paths."""
    text = str(error).strip() or repr(error)
    if not isinstance(error, ValueError):
        frame = traceback.extract_tb(error.__traceback__)[-1:]
        where = f" ({Path(frame[0].filename).name}:{frame[0].lineno})" if frame else ""
        text = f"{type(error).__name__}: {text}{where}"
    return text.replace(str(Path.cwd()) + "/", "")
