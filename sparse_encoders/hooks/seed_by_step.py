"""Random numbers that are the same after an interruption and a resumed training."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.runner import Runner


@HOOKS.register_module()
class SeedByStepHook(Hook):
    """Seed the random generators before every epoch and iteration, so that runs resume exactly.

    MMEngine's checkpoints do not hold the state of the random generators. With this hook Python's,
    NumPy's and torch's generators (of every device) are seeded from the run's seed, the process's
    rank and the number of the epoch or iteration, in training only. A run with
    ``EpochBasedTrainLoop`` that is resumed from the checkpoint of an epoch's end is then the
    uninterrupted one, bit for bit where the operators themselves are deterministic. In
    ``IterBasedTrainLoop`` what the model draws is the same after resuming, what loading draws is
    not.

    The random numbers of data loading do not depend on those of the model: runs with one seed see
    the same images in the same order with the same augmentations, even if their encoders differ.
    Loading workers draw from their epoch's seed, too.

    Raises:
        ValueError: at the start of training, with ``persistent_workers=True``, or where a resumed
            run shuffles by another seed than the interrupted one.
    """

    priority = "VERY_LOW"

    def before_train(self, runner: Runner) -> None:
        """Check settings that would change a resumed run; seed workers by the epoch's seed."""
        loader = runner.train_dataloader
        if loader.persistent_workers:
            raise ValueError(
                "SeedByStepHook: train_dataloader.persistent_workers=True keeps the random state "
                "of the workers, which no checkpoint holds; set it to False"
            )
        # MMEngine builds the sampler before it reads the seed from the checkpoint
        shuffled_by = getattr(loader.sampler, "seed", runner.seed)
        different_ranks = runner._randomness_cfg.get("diff_rank_seed", False)
        if not different_ranks and shuffled_by != runner.seed:
            raise ValueError(
                f"SeedByStepHook: the images are shuffled by the seed {shuffled_by}, the "
                f"interrupted run's was {runner.seed}; set randomness=dict(seed={runner.seed})"
            )
        loader.worker_init_fn = None  # torch's own way: from a number drawn in this process

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed shuffling and loading."""
        _seed(runner.seed, runner.rank, 0, runner.epoch)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed the model's random numbers."""
        _seed(runner.seed, runner.rank, 1, runner.iter)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Seed loading in this process (without workers), independent of the model's numbers."""
        _seed(runner.seed, runner.rank, 2, runner.iter)


def _seed(*numbers: int) -> None:
    """Seed all generators from non-negative integers."""
    seeds = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(seeds[0]))
    np.random.seed(seeds[1])
    torch.manual_seed(int(seeds[2]))
