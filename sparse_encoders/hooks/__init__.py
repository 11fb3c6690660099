"""Hooks for MMEngine's training loop."""

from sparse_encoders.hooks.host_memory import HostMemoryHook
from sparse_encoders.hooks.non_finite_loss import NonFiniteLossHook
from sparse_encoders.hooks.seed_by_step import SeedByStepHook
from sparse_encoders.hooks.token_pictures import TokenPicturesHook

__all__ = ["HostMemoryHook", "NonFiniteLossHook", "SeedByStepHook", "TokenPicturesHook"]
