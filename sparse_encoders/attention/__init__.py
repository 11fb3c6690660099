"""The two attention modules of all encoders and decoders of this package."""

from sparse_encoders.attention.building import attention_config
from sparse_encoders.attention.deformable import DeformableAttention
from sparse_encoders.attention.key_aware import KeyAwareDeformableAttention

__all__ = ["DeformableAttention", "KeyAwareDeformableAttention", "attention_config"]
