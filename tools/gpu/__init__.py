"""Steps that build, test and measure this package on a GPU; ``tools/gpu_check.py`` runs them.

A step that measures is a module with ``plan(settings)``, its :data:`.settings.Cases`, and
``line(result)``, which sums up the result of one in a line.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FAILED, CANNOT_RUN, OUT_OF_TIME, LOST = 1, 2, 3, 4
"""Exit status: a case failed, nothing can run, the time limit was reached, the GPU was lost."""
