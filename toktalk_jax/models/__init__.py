"""The three networks."""

from toktalk_jax.models.adapter import Adapter
from toktalk_jax.models.style import StyleEncoder
from toktalk_jax.models.velocity import VelocityField

__all__ = ["Adapter", "StyleEncoder", "VelocityField"]


def build(model, style):
    """(VelocityField, StyleEncoder) from a config's plain `model` and `style` dicts."""
    model = {**model, "channels": tuple(model["channels"])}
    return VelocityField(**model), StyleEncoder(**style)
