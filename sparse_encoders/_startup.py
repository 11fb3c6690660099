"""Lets MMEngine resolve ``sparse_encoders::...`` before anything has imported the package.

``sparse_encoders.publishing.publish`` copies this file into site-packages, where a start-up file
imports it. Only the standard library is used, and nothing happens until MMEngine is imported.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys

_WATCHED = "mmengine.config.utils"


class _AfterMMEngine(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports MMEngine's module as ever, and adds one entry to its table of packages."""

    def find_spec(self, fullname, path=None, target=None):  # type: ignore[no-untyped-def]
        if fullname != _WATCHED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return None
        self._loader = spec.loader
        spec.loader = self
        return spec

    def create_module(self, spec):  # type: ignore[no-untyped-def]
        return self._loader.create_module(spec)

    def exec_module(self, module):  # type: ignore[no-untyped-def]
        self._loader.exec_module(module)
        if importlib.util.find_spec("sparse_encoders") is not None:
            module.MODULE2PACKAGE.setdefault("sparse_encoders", "sparse_encoders.publishing")


if _WATCHED not in sys.modules:
    sys.meta_path.insert(0, _AfterMMEngine())
