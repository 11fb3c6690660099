"""Backbones that MMDetection does not have."""

from .timm import TimmBackbone

__all__ = ["TimmBackbone"]
