"""``mim train mmdet`` and ``mim test mmdet`` in the process of the tests.

What mim runs is MMDetection's script in a process of its own, which imports for ten seconds before
it trains for one. Here the same script runs in this process. That mim itself runs is tested by the
demo (tests/analysis/test_demo.py) and by a wheel (tests/packaging/test_wheel.py).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from mmengine.logging import MMLogger
from mmengine.utils import ManagerMixin

from sparse_encoders import launch


def run_mim_here(arguments: Sequence[str], log: Path) -> None:
    """Like :func:`sparse_encoders.analysis.mim.run_mim`, for one process without a GPU.

    Args:
        arguments: as for mim, with ``--gpus 0``.
        log: the file that gets what the script prints.

    Raises:
        Whatever the script raises.
    """
    command, _, *options = arguments
    gpus = options.index("--gpus")
    assert options[gpus + 1] == "0", "trains on the CPU only"
    del options[gpus : gpus + 2]
    if "--checkpoint" in options:  # an option of mim's, the second argument of the script
        at = options.index("--checkpoint")
        options.insert(1, options[at + 1])
        del options[at + 1 : at + 3]
    with (
        pytest.MonkeyPatch.context() as patch,
        log.open("w") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
        _own_instances(),
    ):
        patch.setattr(sys, "argv", list(sys.argv))  # the launcher sets the script's
        for name in launch.LAUNCHER_VARIABLES:
            patch.delenv(name, raising=False)
        launch.main([command, *options])


@contextlib.contextmanager
def _own_instances() -> Iterator[None]:
    """Without the loggers, messages, visualizers and scopes of earlier runners; they come back.

    A runner names its visualizer like every other, and would write into the first one's folder.
    """
    kinds = list(_subclasses(ManagerMixin))  # each has instances of its own
    before = [dict(kind._instance_dict) for kind in kinds]
    for kind in kinds:
        kind._instance_dict.clear()
    try:
        yield
    finally:
        for logger in MMLogger._instance_dict.values():
            for handler in logger.handlers:
                handler.close()
        for kind, instances in zip(kinds, before, strict=True):
            kind._instance_dict.clear()
            kind._instance_dict.update(instances)


def _subclasses(kind: type) -> Iterator[type]:
    for below in kind.__subclasses__():
        yield below
        yield from _subclasses(below)
