"""Write the configs of the zoo, their metafiles and docs/config_zoo.md, or check them.

python tools/config_zoo.py           write what differs
python tools/config_zoo.py --check   exit status 1 if anything differs
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sparse_encoders.zoo.catalogue import out_of_date, write

CONFIGS = Path(__file__).resolve().parents[1] / "mmdet_configs"


def main() -> int:
    """Write or check; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    changed = out_of_date(CONFIGS) if check else write(CONFIGS)
    for path in changed:
        print(f"{'differs' if check else 'written'}: {path.relative_to(CONFIGS.parent)}")
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
