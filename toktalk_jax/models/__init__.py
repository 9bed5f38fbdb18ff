"""The three networks."""

from toktalk_jax.models.adapter import Adapter
from toktalk_jax.models.style import StyleEncoder
from toktalk_jax.models.velocity import VelocityField

__all__ = ["Adapter", "StyleEncoder", "VelocityField"]
