"""Random draws that an interruption does not change."""

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

    MMEngine's checkpoints hold no state of the generators: a resumed run draws denoising
    queries, random tokens, dropout and augmentation from the start of the seed again, an
    uninterrupted one from where it stands. With this hook Python's, NumPy's and torch's
    generators (of every device) are seeded from the run's seed, the process's rank and the
    number of the epoch or iteration, in training only. A run with ``EpochBasedTrainLoop`` that
    is resumed from the checkpoint of an epoch's end is then the uninterrupted one, bit for bit
    where the operators themselves are deterministic.

    Whatever the model draws, loading draws the same: runs of one seed see the same images in the
    same order with the same augmentations, though their encoders differ.

    Loading workers draw from their epoch's seed, too. (MMEngine's own seeding gives them the
    same numbers in every epoch, or, with ``persistent_workers=True``, numbers that depend on
    when they were started.) In ``IterBasedTrainLoop`` what the model draws is the same after
    resuming, what loading draws is not.

    Raises:
        ValueError: at the start of training, with ``persistent_workers=True``, or where a resumed
            run shuffles by another seed than the interrupted one.
    """

    priority = "VERY_LOW"

    def before_train(self, runner: Runner) -> None:
        """Refuse what makes a resumed run another one; let workers draw from the epoch's seed."""
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
        """Seed what shuffling and loading draw."""
        _seed(runner.seed, runner.rank, 0, runner.epoch)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed what the model draws."""
        _seed(runner.seed, runner.rank, 1, runner.iter)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Seed what loading draws next, where no worker does it, whatever the model drew."""
        _seed(runner.seed, runner.rank, 2, runner.iter)


def _seed(*numbers: int) -> None:
    """Seed all generators with a mixture of whole ``numbers`` of at least 0."""
    seeds = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(seeds[0]))
    np.random.seed(seeds[1])
    torch.manual_seed(int(seeds[2]))
