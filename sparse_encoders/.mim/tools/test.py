"""`mim test sparse_encoders CONFIG`: MMDetection's script, with this package imported first."""

import sparse_encoders  # noqa: F401
from sparse_encoders.publishing import run_mmdet_tool

run_mmdet_tool("test")
