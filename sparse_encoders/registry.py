"""Where the package's parts are registered.

Encoders, selectors, attention modules and backbones go plainly into
MMDetection's ``MODELS`` (their names are our own). Detectors share their names
with MMDetection's, so they live in a child registry with a scope of its own and
are written ``sparse_encoders.DINO`` in a config: importing the package changes
nothing for configs that do not ask for it.
"""

from mmdet.registry import MODELS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import Registry

DETECTORS = Registry("model", parent=ROOT_MODELS, scope="sparse_encoders")

__all__ = ["DETECTORS", "MODELS"]
