"""The configs that come with the package: their names, published figures, and where they are."""

from sparse_encoders.zoo.names import BACKBONES, DETECTORS, ZooConfig, zoo

__all__ = ["BACKBONES", "DETECTORS", "ZooConfig", "zoo"]
