"""Compare this package with reference numbers of the released implementations.

    python tools/verify_reference.py FIXTURE.npz ...

Prints PASS or FAIL for each compared quantity; exits with 1 if any fails. The checks are in the
checkout's ``tests/reference``; without that folder the script says so and exits with 2.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"


def main() -> int:
    """Verify each file; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fixtures", nargs="+", metavar="FIXTURE.npz")
    args = parser.parse_args()
    if not (TESTS / "reference").is_dir():
        parser.error(
            f"{TESTS / 'reference'}, which holds the checks, is missing: run this script in a "
            "checkout or source distribution of sparse_encoders, an installed wheel has no tests"
        )
    sys.path.insert(0, str(TESTS))
    from reference.checks import verify

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
