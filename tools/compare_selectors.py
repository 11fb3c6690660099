"""Train and test selection strategies side by side, and print a table.

    python tools/make_shapes_dataset.py data/shapes
    python tools/compare_selectors.py --data data/shapes --work-dir work_dirs/comparison

Each run is one `mim train mmdet` and one `mim test mmdet` with the same detector, data, schedule
and seed; only `model.encoder` differs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sparse_encoders.analysis.comparison import DETECTORS, ENCODERS, Comparison, as_table, compare


def main() -> int:
    """Compare; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the shapes set")
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--detectors", nargs="+", default=list(DETECTORS))
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS))
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep-ratio", type=float, default=0.3)
    parser.add_argument("--configs", type=Path, default=Path(__file__).parents[1] / "mmdet_configs")
    args = parser.parse_args()
    rows = []
    try:
        for row in compare(Comparison(**vars(args))):
            rows.append(row)
            (args.work_dir / "table.md").write_text(as_table(rows))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(as_table(rows))
    return 0 if all(row.finite for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
