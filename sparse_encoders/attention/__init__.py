"""The two attention modules that every encoder and decoder here uses."""

from sparse_encoders.attention.building import attention_config
from sparse_encoders.attention.deformable import DeformableAttention
from sparse_encoders.attention.key_aware import KeyAwareDeformableAttention

__all__ = ["DeformableAttention", "KeyAwareDeformableAttention", "attention_config"]
