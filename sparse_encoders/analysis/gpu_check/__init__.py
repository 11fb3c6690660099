"""What proves the GPU side, in steps that can be cut off: see ``tools/gpu_check.py``."""
