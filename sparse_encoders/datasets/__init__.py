"""Data sets: the built-in shapes set, and any folder in COCO's format."""

from sparse_encoders.datasets.coco_folder import CocoFolder, resize_images, use_coco_folder
from sparse_encoders.datasets.same_shape import SameShapeBatchSampler
from sparse_encoders.datasets.shapes import CLASSES, ShapesSettings, make_shapes_dataset

__all__ = [
    "CLASSES",
    "CocoFolder",
    "SameShapeBatchSampler",
    "ShapesSettings",
    "make_shapes_dataset",
    "resize_images",
    "use_coco_folder",
]
