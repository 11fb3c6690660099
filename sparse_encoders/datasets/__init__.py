"""Data sets: the built-in shapes set, and any folder in COCO's format."""

from sparse_encoders.datasets.coco_folder import CocoFolder, CocoFolderRunner, apply_coco_folder
from sparse_encoders.datasets.same_shape import SameShapeBatchSampler
from sparse_encoders.datasets.shapes import CLASSES, ShapesSettings, make_shapes_dataset

__all__ = [
    "CLASSES",
    "CocoFolder",
    "CocoFolderRunner",
    "SameShapeBatchSampler",
    "ShapesSettings",
    "apply_coco_folder",
    "make_shapes_dataset",
]
