"""The training runs of a comparison: trained by MMDetection's command, evaluated, stored."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from sparse_encoders.analysis.compare.accuracy import Judge
from sparse_encoders.analysis.compare.configs import for_training
from sparse_encoders.analysis.compare.facts import training_facts
from sparse_encoders.analysis.compare.measure import set_ratio
from sparse_encoders.analysis.compare.plan import Plan
from sparse_encoders.analysis.compare.store import digest, file_digest
from sparse_encoders.analysis.mim import check_command, last_checkpoint, read_scalars, run_mim
from sparse_encoders.analysis.quiet import quiet
from sparse_encoders.analysis.report.runs import (
    PATTERN,
    Run,
    first_difference,
    ratio_key,
    read_run,
    read_runs,
)
from sparse_encoders.compat import load_weights
from sparse_encoders.loading import load_detector

#: settings of a training, apart from the model
TRAINING = ("train_dataloader", "optim_wrapper", "param_scheduler", "train_cfg", "custom_hooks")
TESTING = ("test_dataloader", "test_evaluator")
#: settings of one machine, which change no result
OF_THE_MACHINE = ("ann_file", "data_root", "data_prefix", "num_workers", "persistent_workers")


class Study:
    """Provides runs, one at a time: from a file, or by training and evaluation.

    A finished run is ``runs/NAME_DIGEST/seed-N.json`` below the comparison's folder, its weights
    ``seed-N.pth`` beside it, which may be deleted.

    Args:
        plan: what is compared.
        machine: that the files name.
        say: called with messages about the progress.
    """

    def __init__(self, plan: Plan, machine: dict[str, Any], say: Callable[[str], None]) -> None:
        self.plan, self.machine, self.say = plan, machine, say
        self.settings = {name: self._settings_of(name) for name in plan.configs}
        self.judge: Judge | None = None
        #: runs that were there before
        self.reused = 0

    def _settings_of(self, name: str) -> dict[str, Any]:
        """All that a run of a variant depends on but the seed, without this machine's paths."""
        given, config, data = self.plan.settings, self.plan.configs[name], self.plan.data
        path = given.checkpoints.get(name)
        training: Any = {"checkpoint": path and file_digest(path)}
        if path is None and given.epochs is not None:
            config = for_training(config, given.epochs, 0)
            training = {key: config.get(key) for key in TRAINING}
        parts = {
            "data": data and {"digest": data.digest, "classes": data.classes},
            "model": config.model,
            "training": training,
            "testing": {key: config.get(key) for key in TESTING},
        }
        settings: dict[str, Any] = json.loads(json.dumps(_anywhere(parts), default=str))
        return settings

    def file(self, name: str, seed: int | None) -> Path:
        """Path of a run's file."""
        folder = self.plan.settings.out / "runs" / f"{name}_{digest(self.settings[name])[:8]}"
        return folder / ("checkpoint.json" if seed is None else f"seed-{seed}.json")

    def weights_file(self, name: str, seed: int | None) -> Path:
        """Path of a run's weights; the file may not exist."""
        if seed is None:
            return self.plan.settings.checkpoints[name]
        return self.file(name, seed).with_suffix(".pth")

    def join(self, folders: tuple[Path, ...]) -> None:
        """Copy the finished runs of other machines or days.

        Raises:
            ValueError: a folder has none, or one of other data, schedule or config.
        """
        for folder in folders:
            for path, run in read_runs(folder).items():
                if run.encoder not in self.settings or run.seed is None:
                    self.say(f"--join {path}: {run.encoder} is not compared, left out")
                    continue
                other = first_difference(self.settings[run.encoder], run.settings)
                if other is not None:
                    raise ValueError(
                        f"--join {path}: a run of another study: {other}. Runs are joined where "
                        "data, schedule and config are the same"
                    )
                kept = self._finished(run.encoder, run.seed)
                if kept is None:
                    run.write(self.file(run.encoder, run.seed))
                elif kept != run:
                    self.say(f"--join {path}: seed {run.seed} is there already, left out")

    def _finished(self, name: str, seed: int | None) -> Run | None:
        path = self.file(name, seed)
        return read_run(path) if path.is_file() else None

    def finished(self, name: str) -> list[Run]:
        """The runs of a variant that are there, by seed."""
        if name not in self.settings:
            return []
        if name in self.plan.settings.checkpoints:
            run = self._finished(name, None)
            return [] if run is None else [run]
        folder = self.file(name, 0).parent
        return list(read_runs(folder).values()) if any(folder.glob(PATTERN)) else []

    def finish(self, name: str, seed: int | None, ratios: Sequence[float | None]) -> None:
        """Make sure that there is a run with its accuracy at these keep ratios.

        Existing results are not computed again; an interrupted training is continued.

        Raises:
            ValueError: the training failed.
        """
        run, weights = self._finished(name, seed), self.weights_file(name, seed)
        missing = [r for r in ratios if run is None or ratio_key(r) not in run.accuracy]
        if run is not None and not missing:
            self.reused += 1
            self.say("  kept from before")
            return
        if seed is not None and not weights.is_file():
            if run is not None:
                self.say(f"  no {weights.name}: AP at keep ratio {missing} stays unknown")
                return
            self._train(name, seed, weights)
        with quiet():
            model = load_detector(self.plan.configs[name], weights, self.plan.settings.device)
        self.judge = self.judge or Judge(self.plan)
        run = run or Run(
            encoder=name,
            seed=seed,
            settings=self.settings[name],
            data=self.judge.data.as_record(),
            weights=_facts(seed, weights, model),
            machine=self.machine,
            made=f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        )
        for ratio in missing:
            set_ratio(model, ratio)
            result = run.accuracy[ratio_key(ratio)] = self.judge.measure(model)
            run.write(self.file(name, seed))
            ap = result["metrics"].get("coco/bbox_mAP") or 0
            at = "" if ratio is None else f" at keep ratio {ratio:g}"
            self.say(f"  AP {ap:.3f}{at}, {result['images']} images")

    def _train(self, name: str, seed: int, weights: Path) -> None:
        """Train the detector by ``mim train mmdet`` into a folder beside the run's file."""
        check_command()
        given, folder = self.plan.settings, weights.with_suffix("")
        assert given.epochs is not None
        folder.mkdir(parents=True, exist_ok=True)
        for_training(self.plan.configs[name], given.epochs, seed).dump(folder / "config.py")
        command = ["train", "mmdet", str(folder / "config.py"), "--work-dir", str(folder)]
        command += ["--gpus", "0" if given.device == "cpu" else "1"]
        if (folder / "last_checkpoint").is_file():
            command.append("--resume")
            self.say("  goes on after an interruption")
        with _adding_seconds(folder / "seconds.txt"):
            run_mim(command, folder / "train.log")
        content = load_weights(last_checkpoint(folder))
        torch.save({key: content[key] for key in ("meta", "state_dict")}, weights)
        for path in folder.glob("epoch_*.pth"):  # with the optimizer's state, three times as large
            path.unlink()


def _facts(seed: int | None, weights: Path, model: Any) -> dict[str, Any]:
    """Where weights are from, and how and at which keep ratio they were trained, if it is known."""
    selector = getattr(model.encoder, "selector", None)
    ratios = getattr(selector, "trained_keep_ratio", None)
    facts = training_facts(weights)
    kept = {
        "trained_keep_ratio": ratios and sum(ratios) / len(ratios),  # the average over layers
        "trained_keep_range": getattr(selector, "trained_keep_range", None),
    }
    if seed is None:
        return {"source": "checkpoint", "file": str(weights), **facts, **kept}
    folder = weights.with_suffix("")
    losses = [float(record["loss"]) for record in read_scalars(folder) if "loss" in record]
    tenth = max(len(losses) // 10, 1)
    ends = (sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth) if losses else None
    return {
        "source": "trained",
        **facts,
        "seconds": float((folder / "seconds.txt").read_text()),
        "losses": ends,
        "finite": all(isfinite(loss) for loss in losses),
        **kept,
    }


@contextmanager
def _adding_seconds(path: Path) -> Iterator[None]:
    """Add what runs inside to the seconds in a file, also where it is interrupted."""
    before, start = float(path.read_text()) if path.is_file() else 0.0, time.perf_counter()
    try:
        yield
    finally:
        path.write_text(f"{before + time.perf_counter() - start:.1f}\n")


def _anywhere(value: Any) -> Any:
    """Settings without those of one machine, such as paths."""
    if isinstance(value, Mapping):
        return {k: _anywhere(v) for k, v in value.items() if k not in OF_THE_MACHINE}
    return [_anywhere(v) for v in value] if isinstance(value, (list, tuple)) else value
