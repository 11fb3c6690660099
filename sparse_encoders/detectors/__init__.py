"""MMDetection's detectors with an encoder that the config chooses."""

from sparse_encoders.detectors.base import EncoderDetector
from sparse_encoders.detectors.ddq_detr import DDQDETR
from sparse_encoders.detectors.deformable_detr import DeformableDETR
from sparse_encoders.detectors.dino import DINO
from sparse_encoders.detectors.dn_detr import DNDETR
from sparse_encoders.detectors.h_detr import HDETR, HDETRHead

__all__ = ["DDQDETR", "DINO", "DNDETR", "HDETR", "DeformableDETR", "EncoderDetector", "HDETRHead"]
