"""Write a comparison's report again, from its files.

python -m sparse_encoders.analysis.report REPORT.json --out FOLDER
python -m sparse_encoders.analysis.report STUDY --out FOLDER

STUDY is a folder with the files of training runs (seed-N.json, at any depth) and, for the costs, a
report.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sparse_encoders.analysis import require


def main(argv: list[str] | None = None) -> None:
    """Run the command; nothing is measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("report", type=Path, help="report.json of a comparison, or a folder")
    parser.add_argument("--out", type=Path, help="folder of the new files (the report's own)")
    parser.add_argument("--margin", type=float, help="AP that is no gain (as measured)")
    args = parser.parse_args(argv)
    require("jinja2", "pandas", "plotly", "scipy", "tabulate")
    from sparse_encoders.analysis.report.page import write_report
    from sparse_encoders.analysis.report.reading import read_report

    try:
        report = read_report(args.report)
    except ValueError as error:
        parser.error(str(error))
    if args.margin is not None:
        report.margin = args.margin
    folder = args.report if args.report.is_dir() else args.report.parent
    for path in write_report(report, args.out or folder):
        print(f"written: {path}")


if __name__ == "__main__":
    main()
