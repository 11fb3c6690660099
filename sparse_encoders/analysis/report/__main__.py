"""Draw a comparison's report again: ``python -m sparse_encoders.analysis.report REPORT.json``."""

from __future__ import annotations

import argparse
from pathlib import Path

from sparse_encoders.analysis import require
from sparse_encoders.analysis.report import read_report


def main(argv: list[str] | None = None) -> None:
    """Run the command; nothing is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, help="report.json of a comparison")
    parser.add_argument("--out", type=Path, help="folder of the new files (the report's own)")
    args = parser.parse_args(argv)
    require("jinja2", "pandas", "plotly", "tabulate")
    from sparse_encoders.analysis.report.page import write_report

    try:
        report = read_report(args.report)
    except ValueError as error:
        parser.error(str(error))
    for path in write_report(report, args.out or args.report.parent):
        print(f"written: {path}")


if __name__ == "__main__":
    main()
