"""Compare this package with reference numbers of the released implementations.

    python tools/verify_reference.py FIXTURE.npz ...

Prints PASS or FAIL for each compared quantity; exits with 1 if any fails.
"""

from __future__ import annotations

import argparse
import sys

from sparse_encoders.checkpoints import all_checks
from sparse_encoders.checkpoints.reference import verify


def main() -> int:
    """Verify each file; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fixtures", nargs="+", metavar="FIXTURE.npz")
    args = parser.parse_args()
    all_checks()
    failed = 0
    for path in args.fixtures:
        try:
            results = verify(path)
        except ValueError as error:
            print(f"FAIL  {path}: {error}")
            failed += 1
            continue
        for check in results:
            print(f"{'PASS' if check.passed else 'FAIL'}  {path}: {check.name}: {check.detail}")
        failed += sum(not check.passed for check in results)
    print(f"{'FAIL' if failed else 'PASS'}: {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
