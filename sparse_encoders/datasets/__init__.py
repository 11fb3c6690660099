"""Data sets: the built-in shapes set and the check of a user's COCO folder."""

from .shapes import CLASSES, ShapesSettings, make_shapes_dataset

__all__ = ["CLASSES", "ShapesSettings", "make_shapes_dataset"]
