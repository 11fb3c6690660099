"""MMDetection's training and test scripts for configs by name, in one process or several.

    python -m sparse_encoders.launch train CONFIG [options of MMDetection's tools/train.py]
    python -m sparse_encoders.launch test CONFIG CHECKPOINT [options of its tools/test.py]
    torchrun --nproc-per-node 2 -m sparse_encoders.launch train CONFIG

CONFIG is a file, a name of this package's configs, or ``mmdet::dino/...``. ``mim train
sparse_encoders CONFIG`` runs the same. The package is imported before the config is read, so that
CONFIG may inherit from ``sparse_encoders::...``.

MMEngine's PyTorch launcher selects a CUDA device before it joins the process group, which fails
without a GPU. It uses a group that exists already, so processes without a GPU join one here, with
the gloo backend.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch
import torch.distributed as dist

from sparse_encoders.loading import find_config, read_config

LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# MMEngine would set a GPU for each process.
_ON_CPU = (
    "--cfg-options",
    "model_wrapper_cfg.type=MMDistributedDataParallel",
    "model_wrapper_cfg.device_ids=None",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run MMDetection's script in this process.

    Args:
        arguments: command, config and options; None: those of this process.

    Raises:
        ValueError: there is no such config.
        FileNotFoundError: MMDetection is installed without its scripts.
    """
    parser = argparse.ArgumentParser(
        prog="python -m sparse_encoders.launch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--local-rank", help=argparse.SUPPRESS)  # mim's launcher passes it, too
    parser.add_argument("command", choices=("train", "test"))
    parser.add_argument("config", metavar="CONFIG", help="file or name")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="of MMDetection's script")
    given = parser.parse_args(arguments)
    config, options = find_config(given.config), list(given.options)
    launched = all(name in os.environ for name in LAUNCHER_VARIABLES)
    if launched and ("--launcher" not in options or "pytorch" in options):
        options += process_options(config, options)
    script = files("mmdet") / ".mim" / "tools" / f"{given.command}.py"
    if not script.is_file():
        raise FileNotFoundError(f"MMDetection has no script {script}")
    sys.argv = [str(script), str(config), *options]
    runpy.run_path(str(script), run_name="__main__")


def process_options(config: Path, options: Sequence[str]) -> list[str]:
    """Additional options for one of several processes; without a GPU also joins their group.

    Args:
        config: the config that is run.
        options: the options that are given.
    """
    more = [] if "--launcher" in options else ["--launcher", "pytorch"]
    if torch.cuda.is_available():
        return more
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    read = read_config(config)
    own = read.get("model_wrapper_cfg") or read.get("runner_type") == "FlexibleRunner"
    return more if own else [*more, *_ON_CPU]


if __name__ == "__main__":
    main()
