"""Sparse encoders for DETR-style detectors in MMDetection.

Importing the package registers its detectors, encoders, selectors, attention
modules and backbones; a config needs only
``custom_imports = dict(imports=['sparse_encoders'])``.
"""

from sparse_encoders import compat  # first: what the stack needs before anything imports it

# isort: split
from sparse_encoders import (
    attention,
    backbones,
    configs,
    detectors,
    encoders,
    evaluation,
    hooks,
    mixed_precision,
    optimizers,
    selectors,
)

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "attention",
    "backbones",
    "compat",
    "configs",
    "detectors",
    "encoders",
    "evaluation",
    "hooks",
    "mixed_precision",
    "optimizers",
    "selectors",
]
