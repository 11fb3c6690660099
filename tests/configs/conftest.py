"""Configs load fast: MMEngine parses MMDetection's bases and indexes once, not once a file."""

import copy
import functools

import pytest
from mmengine.config import Config
from mmengine.config import utils as config_utils


@pytest.fixture(scope="session", autouse=True)
def remembered_bases():
    """Keep what MMEngine read of a file, for all tests of this folder."""
    patch = pytest.MonkeyPatch()
    patch.setattr(config_utils, "load", functools.cache(config_utils.load))
    read, kept = Config._file2dict, {}

    def remembering(filename, *args, **kwargs):
        key = (str(filename), args, tuple(sorted(kwargs.items())))
        if key not in kept:
            kept[key] = read(filename, *args, **kwargs)
        return copy.deepcopy(kept[key])

    patch.setattr(Config, "_file2dict", staticmethod(remembering))
    yield
    patch.undo()
