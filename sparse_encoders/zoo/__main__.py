"""``python -m sparse_encoders.zoo``: list the configs, find one, make them known to commands."""

from __future__ import annotations

import argparse
import sys

from sparse_encoders.publishing import config_path, publish, unpublish
from sparse_encoders.zoo.names import zoo


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m sparse_encoders.zoo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="print every config of the zoo")
    commands.add_parser("path", help="print a config's path").add_argument("name")
    commands.add_parser("publish", help="let `mim train mmdet NAME` find them")
    commands.add_parser("unpublish", help="take that back")
    given = parser.parse_args(arguments)
    try:
        lines = {
            "list": lambda: [config.path for config in zoo()],
            "path": lambda: [config_path(given.name)],
            "publish": lambda: [f"written: {path}" for path in publish()],
            "unpublish": lambda: [f"removed: {path}" for path in unpublish()],
        }[given.command]()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
