"""The comparison itself: costs, training runs, pictures; then the report."""

from __future__ import annotations

import base64
import copy
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import sparse_encoders
from sparse_encoders.analysis import require
from sparse_encoders.analysis.compare.configs import TRAIN_RATIO
from sparse_encoders.analysis.compare.measure import measure_latency, measure_memory, set_ratio
from sparse_encoders.analysis.compare.plan import Plan, make_plan
from sparse_encoders.analysis.compare.settings import Comparison
from sparse_encoders.analysis.compare.store import Store, file_digest
from sparse_encoders.analysis.compare.study import Study
from sparse_encoders.analysis.complexity import count_complexity
from sparse_encoders.analysis.inputs import choose_images
from sparse_encoders.analysis.machine import describe_machine
from sparse_encoders.analysis.quiet import quiet
from sparse_encoders.analysis.report import Report, Row
from sparse_encoders.analysis.variants import is_control, label
from sparse_encoders.loading import load_detector

Say = Callable[[str], None]
#: dots per inch of pictures: enough to see a token, small enough to travel in the page
DPI = 110


def compare(settings: Comparison, say: Say = lambda line: print(line, flush=True)) -> Report:
    """Measure every variant and write the report into ``settings.out``, again after every run.

    What was measured before with the same settings is taken from ``settings.out``.
    A variant that fails has its error in its row and ends nothing else.

    Args:
        settings: what to compare.
        say: called with messages about the progress, a line at a time.

    Raises:
        ValueError: config, data, a checkpoint, a run to be joined or a setting is not usable;
            before anything is trained or measured.
    """
    require("jinja2", "pandas", "plotly", "scipy", "tabulate")
    from sparse_encoders.analysis.report.page import write_report

    start = time.perf_counter()
    warnings.filterwarnings("ignore", message="torch.meshgrid")  # MMDetection's, not the user's
    if settings.out.exists() and not settings.out.is_dir():
        raise ValueError(f"--out must be a folder, got the file {settings.out}")
    settings.out.mkdir(parents=True, exist_ok=True)
    say("checking config, data and checkpoints")
    run = _Run(make_plan(settings), say)
    run.study.join(settings.join)
    run.measure_costs()
    for number, (name, seed) in enumerate(run.runs, 1):
        if run.finish(name, seed, f"[{number}/{len(run.runs)}] {name}"):
            write_report(run.report(time.perf_counter() - start), settings.out)
    run.draw()
    report = run.report(time.perf_counter() - start)
    for path in write_report(report, settings.out):
        say(f"written: {path}")
    return report


class _Run:
    """State of one comparison: loaded models and results so far."""

    def __init__(self, plan: Plan, say: Say) -> None:
        self.plan, self.settings, self.say = plan, plan.settings, say
        self.store = Store(self.settings.out / "results")
        self.machine = describe_machine(self.settings.device)
        self.study = Study(plan, self.machine, say)
        self.rows = [
            Row(v.encoder, v.keep_ratio, is_control(self.settings.base_of(v.encoder)))
            for v in self.settings.variants()
            if v.encoder in (*plan.configs, *plan.unfit)
        ]
        self.models: dict[str, Any] = {}
        self.pictures: list[dict[str, str]] = []

    @property
    def runs(self) -> list[tuple[str, int | None]]:
        """Trainings in their order: all variants with the first seed, then with the next."""
        given = self.settings
        if self.plan.data is None:
            return []
        runs: list[tuple[str, int | None]] = [(name, None) for name in given.checkpoints]
        if given.epochs is not None:
            trained = [n for n in self.plan.configs if n not in given.checkpoints]
            seeds = range(given.seed, given.seed + given.seeds)
            runs += [(name, seed) for seed in seeds for name in trained]
        return runs

    def measure_costs(self) -> None:
        """Measure all costs, which do not depend on trained weights."""
        if self.plan.match is not None:
            self.say(str(self.plan.match))
        for name in (*self.plan.configs, *self.plan.unfit):
            with self._reported(self._of(name), name):
                if name in self.plan.unfit:
                    raise ValueError(self.plan.unfit[name])
                self.models[name] = self._model(name)
            self._fill(name)
        for row in self._working():
            with self._reported([row], row.label):
                self._measure(row)
        rows = self._working()
        if rows:
            self.say(f"latency of {len(rows)} variants in turns")
            with self._reported(rows, "latency of all variants"):
                self._time(rows)

    @contextmanager
    def _reported(self, rows: list[Row], what: str) -> Iterator[None]:
        """Put an error of what runs inside into the rows, so that the others go on."""
        try:
            yield
        except Exception as error:
            self.say(f"{what}: FAILED: {brief(error)}")
            for row in rows:
                row.error = brief(error)

    def finish(self, name: str, seed: int | None, title: str) -> bool:
        """Finish a run; returns whether there are new results."""
        rows = [row for row in self._working() if row.encoder == name]
        if not rows:
            return False
        self.say(title if seed is None else f"{title}, seed {seed}")
        before = self.study.reused
        try:
            self.study.finish(name, seed, [row.keep_ratio for row in rows])
        except Exception as error:  # reported in the rows: the others go on
            self.say(f"{title}: FAILED: {brief(error)}")
            for row in rows:
                row.lost.append(brief(error) if seed is None else f"seed {seed}: {brief(error)}")
        self._fill(name)
        return self.study.reused == before

    def report(self, seconds: float) -> Report:
        """A report of the results so far."""
        plan, settings = self.plan, self.settings
        for row in self.rows:
            if row.lost and not row.runs:
                row.error = row.lost[0]
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
            pictures=self.pictures,
            reused=self.store.reused + self.study.reused,
            seconds=seconds,
            made=f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        )

    def _of(self, name: str) -> list[Row]:
        return [row for row in self.rows if row.encoder == name]

    def _working(self) -> list[Row]:
        return [row for row in self.rows if row.error is None]

    def _model(self, name: str) -> Any:
        """A detector for measurements of its costs."""
        config = copy.deepcopy(self.plan.configs[name])
        if "weights" in config.model.backbone:
            config.model.backbone.weights = None  # nothing is downloaded
        with quiet():
            return load_detector(config, self.settings.checkpoints.get(name), self.settings.device)

    def _fill(self, name: str) -> None:
        """The finished runs into the rows of a variant."""
        runs = self.study.finished(name)
        for row in self._of(name):
            row.take(runs)
            row.weights = row.weights or {"source": "none"}

    def _identity(self, row: Row) -> dict[str, Any]:
        """All settings that a row's costs depend on, without image size and machine."""
        checkpoint = self.settings.checkpoints.get(row.encoder)
        return {
            "model": self.plan.configs[row.encoder].model.to_dict(),
            "keep_ratio": row.keep_ratio,
            "weights": None if checkpoint is None else file_digest(checkpoint),
            "version": sparse_encoders.__version__,
        }

    def _measure(self, row: Row) -> None:
        """Measure the multiply-adds and the memory of a row."""
        model, size, device = self.models[row.encoder], self.plan.size, self.settings.device
        set_ratio(model, row.keep_ratio)
        same = {**self._identity(row), "size": size}
        row.complexity = self.store.keep(
            "complexity", row.label, same, lambda: count_complexity(model, size).as_record()
        )
        here = {**same, "machine": self.machine}
        memory = self.store.keep(
            "memory", row.label, here, lambda: measure_memory(model, size, device)
        )
        row.memory_mib = memory["peak_mib"]
        self.say(f"{row.label}: {row.madds() or 0:.2f} G, {row.memory_mib or 0:.0f} MiB")

    def _time(self, rows: list[Row]) -> None:
        """Measure the latency of rows, in turns."""
        size, device = self.plan.size, self.settings.device
        models = {row.label: (self.models[row.encoder], row.keep_ratio) for row in rows}
        rounds = (self.settings.repeats, self.settings.warmup)
        same = {
            "rows": {row.label: self._identity(row) for row in rows},
            "size": size,
            "machine": self.machine,
            "rounds": rounds,
        }
        latency = self.store.keep(
            "latency", "all", same, lambda: measure_latency(models, size, device, *rounds, self.say)
        )
        for row in rows:
            row.rounds = [tuple(stages) for stages in latency["rounds"][row.label]]

    def draw(self) -> None:
        """Kept tokens of every strategy on some images, by the first run's weights."""
        from sparse_encoders.visualization import pictures as drawing

        data, count = self.plan.data, self.settings.pictures
        runs = [run for name in self.models for run in self.study.finished(name)[:1]]
        files = {run.encoder: self.study.weights_file(run.encoder, run.seed) for run in runs}
        files = {name: file for name, file in files.items() if file.is_file()}
        self.study.judge, self.models = None, {}
        if not count or data is None or not files:
            return
        self.say("pictures of kept tokens")
        try:
            for name, file in files.items():
                with quiet():
                    model = load_detector(self.plan.configs[name], file)
                ratio = self._picture_ratio(name)
                set_ratio(model, ratio)
                if not getattr(model.encoder, "needs_boxes", False):  # an image file has none
                    self.models[label(name, ratio)] = model
            for image in choose_images(data.annotations, data.images, count if self.models else 0):
                records = {n: drawing.record_tokens(m, image) for n, m in self.models.items()}
                jpeg = drawing.picture_bytes(drawing.draw_side_by_side(records), DPI, "jpeg")
                self.pictures.append({"title": image.name, "jpeg": base64.b64encode(jpeg).decode()})
        except Exception as error:  # a report without pictures is worth having
            self.say(f"  FAILED: {brief(error)}")

    def _picture_ratio(self, name: str) -> float | None:
        """The ratio, of those compared, next to the one that an encoder was trained at."""
        weights = self._of(name)[0].weights or {}
        trained = weights.get("trained_keep_ratio") or TRAIN_RATIO
        ratios = [row.keep_ratio for row in self._of(name) if row.keep_ratio is not None]
        return min(ratios, key=lambda ratio: abs(ratio - trained), default=None)


def brief(error: BaseException) -> str:
    """An error in a line, without this machine's paths."""
    text = str(error).strip() or repr(error)
    if not isinstance(error, ValueError):
        frame = traceback.extract_tb(error.__traceback__)[-1:]
        where = f" ({Path(frame[0].filename).name}:{frame[0].lineno})" if frame else ""
        text = f"{type(error).__name__}: {text}{where}"
    return text.replace(str(Path.cwd()) + "/", "")
