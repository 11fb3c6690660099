"""MMDetection's detectors, each able to take any encoder."""

from sparse_encoders.detectors.dino import DINO
from sparse_encoders.detectors.host import EncoderHost

__all__ = ["DINO", "EncoderHost"]
