"""The networks."""

from toktalk_jax.models.adapter import Adapter, LinearMap
from toktalk_jax.models.style import StyleEncoder
from toktalk_jax.models.velocity import VelocityField

__all__ = ["Adapter", "LinearMap", "StyleEncoder", "VelocityField"]


def build(model, style):
    """(VelocityField, StyleEncoder) from a config's plain `model` and `style` dicts."""
    model = {**model, "channels": tuple(model["channels"])}
    return VelocityField(**model), StyleEncoder(**style)


def build_adapter(adapter, out_dim):
    """The adapter of a config's `adapter` dict, of kind "transformer" or "linear"."""
    if adapter["kind"] == "linear":
        return LinearMap(out_dim)
    sizes = {k: v for k, v in adapter.items() if k not in ("kind", "context_tokens")}
    return Adapter(out_dim, **sizes)
