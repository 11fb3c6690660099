"""What the tools that measure share: sizes on the command line, progress, reports as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def size(text: str) -> tuple[int, int]:
    """(height, width) of such as '480x640'."""
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(f"must be HEIGHTxWIDTH in pixels, got {text!r}")
    return int(sides[0]), int(sides[1])


def say(message: str) -> None:
    """What is going on, beside the table."""
    print(message, file=sys.stderr, flush=True)


def write_report(file: Path | None, **content: Any) -> None:
    """Write the command and ``content`` as JSON, if a file is named."""
    if file:
        report = {"command": " ".join(sys.argv), **content}
        file.write_text(json.dumps(report, indent=2) + "\n")
