"""Reading of configs, checkpoints and detectors from files, for tools, analysis and deployment."""

from sparse_encoders.loading.configs import find_config, read_config
from sparse_encoders.loading.detectors import check_fit, load_detector
from sparse_encoders.loading.reading import Checkpoint, read_checkpoint

__all__ = [
    "Checkpoint",
    "check_fit",
    "find_config",
    "load_detector",
    "read_checkpoint",
    "read_config",
]
