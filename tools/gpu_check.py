r"""Prove the GPU side: build, test, sanitize, measure. Steps of at most ten minutes each.

    python tools/gpu_check.py collect                    # where there is a network
    python tools/gpu_check.py build tests sanitizer ops  # on the machine with the GPU
    python tools/gpu_check.py detectors train compile

Every case is a line here and an entry of ``results.json`` in the work folder. A call that was cut
off goes on where it stopped when it is run again; what failed is run again, too. Exit status: 0 all
went well, 1 something failed, 2 it cannot run, 3 there was no time for all.

``--device cpu --tiny`` rehearses the steps without a GPU. docs/cuda.md says more.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import gpu_build

ROOT = Path(__file__).resolve().parent.parent
MEASURED = ("tests", "sanitizer", "ops", "detectors", "train", "compile")
STEPS = ("collect", "build", *MEASURED)
LOST = 4  # the GPU is in an error that ends with the process


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("steps", nargs="+", choices=STEPS, metavar="STEP", help=", ".join(STEPS))
    parser.add_argument(
        "--work", type=Path, default=ROOT / "work_dirs" / "gpu_check", help="folder of everything"
    )
    parser.add_argument("--device", default="cuda:0", help="cpu, or a CUDA device")
    parser.add_argument(
        "--tiny", action="store_true", help="tiny sizes: rehearses, measures nothing"
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="no case begins later")
    parser.add_argument(
        "--keep-failed", action="store_true", help="do not run again what failed before"
    )
    gpu_build.add_options(parser)
    return parser.parse_args(argv)


def say(text: str) -> None:
    """A line, at once."""
    print(text, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the steps; the exit status."""
    started, args = time.monotonic(), parse(argv)
    args.work = args.work.absolute()
    left = [step for step in STEPS if step in args.steps]  # in the order in which they are needed
    try:
        while left and left[0] not in MEASURED:
            status = gpu_build.run(left.pop(0), args, say)
            if status:
                return status
        return measure(left, args, started) if left else 0
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def measure(steps: list[str], args: argparse.Namespace, started: float) -> int:
    """Run the steps that need the package, in the environment that was built where there is one."""
    left = args.minutes - (time.monotonic() - started) / 60
    own = gpu_build.python_of(args.work)
    if own is not None and Path(sys.prefix) != own.parent.parent:
        again(own, steps, args, left)
    sys.path.insert(0, str(ROOT))
    from sparse_encoders.analysis.gpu_check.run import run
    from sparse_encoders.analysis.gpu_check.settings import Settings

    status = run(
        steps,
        Settings(
            root=ROOT,
            work=args.work,
            device=args.device,
            tiny=args.tiny,
            minutes=left,
            keep_failed=args.keep_failed,
        ),
        say,
    )
    if status == LOST:
        args.keep_failed = True
        again(Path(sys.executable), steps, args, args.minutes - (time.monotonic() - started) / 60)
    return status


def again(python: Path, steps: list[str], args: argparse.Namespace, minutes: float) -> None:
    """Go on in another process, which takes this one's place."""
    options = ["--work", str(args.work), "--device", args.device, "--minutes", f"{minutes:.2f}"]
    options += ["--tiny"] * args.tiny + ["--keep-failed"] * args.keep_failed
    command = [str(python), str(Path(__file__).resolve()), *steps, *options]
    sys.stdout.flush()
    os.execv(command[0], command)


if __name__ == "__main__":
    sys.exit(main())
