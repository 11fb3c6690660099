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

from gpu import build

ROOT = Path(__file__).resolve().parent.parent
MEASURED = ("tests", "sanitizer", "ops", "detectors", "train", "compile")
STEPS = ("collect", "build", *MEASURED)
LOST = 4  # exit status: the GPU is in an error state that lasts as long as the process


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("steps", nargs="+", choices=STEPS, metavar="STEP", help=", ".join(STEPS))
    parser.add_argument(
        "--work",
        type=Path,
        default=ROOT / "work_dirs" / "gpu_check",
        help="folder of all files that are written",
    )
    parser.add_argument("--device", default="cuda:0", help="cpu, or a CUDA device")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the steps out")
    parser.add_argument("--minutes", type=float, default=8.0, help="time limit for starting cases")
    parser.add_argument(
        "--keep-failed", action="store_true", help="do not run cases again that failed before"
    )
    build.add_options(parser)
    return parser.parse_args(argv)


def say(text: str) -> None:
    """Print a line without buffering."""
    print(text, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the steps and return the exit status."""
    started, args = time.monotonic(), parse(argv)
    args.work = args.work.absolute()
    steps = [step for step in STEPS if step in args.steps]  # in the order of STEPS
    try:
        while steps and steps[0] not in MEASURED:
            if status := build.run(steps.pop(0), args, say):
                return status
        return measure(steps, args, started) if steps else 0
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def measure(steps: list[str], args: argparse.Namespace, started: float) -> int:
    """Run the steps that need the package, in the environment that ``build`` made, if any."""
    minutes = args.minutes - (time.monotonic() - started) / 60
    python = build.python_of(args.work)
    if python is not None and Path(sys.prefix) != python.parent.parent:
        restart(python, steps, args, minutes)
    sys.path.insert(0, str(ROOT))
    from gpu.run import run
    from gpu.settings import Settings

    status = run(
        steps,
        Settings(
            root=ROOT,
            work=args.work,
            device=args.device,
            tiny=args.tiny,
            minutes=minutes,
            keep_failed=args.keep_failed,
        ),
        say,
    )
    if status == LOST:
        args.keep_failed = True
        minutes = args.minutes - (time.monotonic() - started) / 60
        restart(Path(sys.executable), steps, args, minutes)
    return status


def restart(python: Path, steps: list[str], args: argparse.Namespace, minutes: float) -> None:
    """Replace this process by a new one that continues with the steps."""
    options = ["--work", str(args.work), "--device", args.device, "--minutes", f"{minutes:.2f}"]
    options += ["--tiny"] * args.tiny + ["--keep-failed"] * args.keep_failed
    command = [str(python), str(Path(__file__).resolve()), *steps, *options]
    sys.stdout.flush()
    os.execv(command[0], command)


if __name__ == "__main__":
    sys.exit(main())
