"""Build, test and measure this package on a GPU, in steps of at most ten minutes each.

    python tools/gpu_check.py collect                    # where there is a network
    python tools/gpu_check.py build tests sanitizer ops  # on the machine with the GPU
    python tools/gpu_check.py detectors train compile

Every case is printed as a line and stored in ``results.json`` in the work folder. To resume an
interrupted call, run it again: it skips the cases that are done and repeats those that failed. Exit
status: 0 all cases succeeded, 1 a case failed, 2 it cannot run, 3 the time limit was reached.

``--device cpu --tiny`` tries the steps out without a GPU. Details: docs/cuda.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from gpu import CANNOT_RUN, LOST, ROOT
from gpu.build import build, python_of
from gpu.collect import collect

STEPS = ("collect", "build", "tests", "sanitizer", "ops", "detectors", "train", "compile")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("steps", nargs="+", choices=STEPS, metavar="STEP", help=", ".join(STEPS))
    folder = ROOT / "work_dirs" / "gpu_check"
    add("--work", type=Path, default=folder, help="folder of all files that are written")
    add("--device", default="cuda:0", help="cpu, or a CUDA device")
    add("--tiny", action="store_true", help="tiny sizes, to try the steps out")
    add("--minutes", type=float, default=8.0, help="time limit for starting cases")
    add("--keep-failed", action="store_true", help="do not run cases again that failed before")
    add("--wheels", type=Path, help="folder of the collected packages (WORK/wheels)")
    add("--python", default="3.12", help="collect: Python version of the machine with the GPU")
    add("--also", nargs="+", default=[], metavar="NAME", help="collect: further packages")
    add(
        "--arch",
        help="build: compute capability to build for, such as 9.0, on a machine without a GPU",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the steps and return the exit status."""
    args = parse(argv)
    deadline = time.monotonic() + args.minutes * 60
    args.work = args.work.absolute()
    wheels = (args.wheels or args.work / "wheels").absolute()
    try:
        if "collect" in args.steps and (status := collect(wheels, args.python, args.also)):
            return status
        if "build" in args.steps:
            only_plan = args.device == "cpu"
            if status := build(args.work, wheels, args.arch, only_plan, deadline):
                return status
        steps = [step for step in STEPS[2:] if step in args.steps]  # in the order of STEPS
        return measure(steps, args, deadline) if steps else 0
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return CANNOT_RUN


def measure(steps: list[str], args: argparse.Namespace, deadline: float) -> int:
    """Run the steps that need the package, in the environment that ``build`` made, if any."""
    python = python_of(args.work)
    if python is not None and Path(sys.prefix) != python.parent.parent:
        restart(python, steps, args, deadline)
    sys.path.insert(0, str(ROOT))
    from gpu.run import run
    from gpu.settings import TINY, Settings

    sizes = TINY if args.tiny else {}
    status = run(steps, Settings(args.work, args.device, deadline, args.keep_failed, **sizes))
    if status == LOST:
        args.keep_failed = True
        restart(Path(sys.executable), steps, args, deadline)
    return status


def restart(python: Path, steps: list[str], args: argparse.Namespace, deadline: float) -> None:
    """Replace this process by a new one that continues with the steps."""
    minutes = f"{(deadline - time.monotonic()) / 60:.2f}"
    options = ["--work", str(args.work), "--device", args.device, "--minutes", minutes]
    options += ["--tiny"] * args.tiny + ["--keep-failed"] * args.keep_failed
    command = [str(python), str(Path(__file__).resolve()), *steps, *options]
    sys.stdout.flush()
    os.execv(command[0], command)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.exit(main())
