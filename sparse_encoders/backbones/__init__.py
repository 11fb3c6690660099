"""Backbones that MMDetection does not have."""

from sparse_encoders.backbones.timm import TimmBackbone

__all__ = ["TimmBackbone"]
