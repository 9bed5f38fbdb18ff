"""The same networks twice, in JAX and in PyTorch, with the same random weights."""

from typing import NamedTuple

import jax
import numpy as np
import torch

from configs import base, small
from toktalk_jax import models, torch_port
from toktalk_jax import motion as mo
from tools.torch_reference.adapter import Adapter
from tools.torch_reference.style import StyleEncoder
from tools.torch_reference.velocity import VelocityField


class Size(NamedTuple):
    """Attributes: velocity, style, adapter: constructor arguments; tokens: width A."""

    velocity: dict
    style: dict
    adapter: dict
    tokens: int


def size_of(name):
    """`Size` "paper" (configs/base.py), "small" (configs/small.py), "tiny" (tests)."""
    if name == "tiny":
        velocity = dict(
            channels=(16, 16), blocks_per_stage=2, mid_blocks=2, heads=2, head_dim=8
        )
        style = dict(width=6, hidden=16, heads=2, dropout=0.0)
        adapter = dict(out_dim=12, width=16, depth=2, heads=2, feed_forward=24)
        return Size(velocity, style, adapter, 12)
    config = {"paper": base, "small": small}[name].get_config()
    model = config.model.to_dict()
    del model["stacked"]  # as ours computes it, not what
    narrow = dict(width=64, feed_forward=128) if name == "small" else {}
    adapter = dict(out_dim=512, **narrow)
    return Size(
        {**model, "channels": tuple(model["channels"])},
        {**config.style.to_dict(), "dropout": 0.0},
        adapter,
        512,
    )


class Pair(NamedTuple):
    """One network of each kind on both sides.

    Attributes:
      ours: {"velocity", "style", "adapter"} linen modules; params: theirs, one tree;
      twin: the same networks as torch modules, with the same weights.
    """

    ours: dict
    params: dict
    twin: dict


def make_pair(size, device="cpu", seed=0):
    """A `Pair` of this `Size`; the weights are random and none of them is zero."""
    ours = {
        "velocity": models.VelocityField(**size.velocity),
        "style": models.StyleEncoder(**size.style),
        "adapter": models.Adapter(**size.adapter),
    }
    A, K = size.tokens, size.style["width"]
    inputs = {
        "velocity": [(1, 4, mo.F), (1,), (1, 4, A), (1, 4, K)],
        "style": [(1, 10, mo.F)],
        "adapter": [(1, 4, A)],
    }
    params = {
        name: random_params(ours[name], inputs[name], seed + i)
        for i, name in enumerate(ours)
    }
    twin = {
        "velocity": VelocityField(mo.F + A + K, **size.velocity),
        "style": StyleEncoder(mo.F, **size.style),
        "adapter": Adapter(A, **size.adapter),
    }
    pair = Pair(ours, params, {k: v.to(device) for k, v in twin.items()})
    load_weights(pair)
    return pair


def load_weights(pair):
    """Give the twin our weights."""
    for name, module in pair.twin.items():
        module.load_state_dict(tensors(torch_port.to_torch(pair.params[name])))


def tensors(arrays):
    """{name: array} to {name: tensor}, copied."""
    return {name: torch.tensor(np.asarray(a)) for name, a in arrays.items()}


def random_params(model, shapes, seed):
    """Parameters of a linen module for inputs of these shapes, drawn by NumPy.

    Kernels keep the variance of their input; biases are small but not zero and norm
    scales near but not at 1, so that an error in any of them would show.
    """
    rng = np.random.default_rng(seed)
    arguments = [jax.ShapeDtypeStruct(s, np.float32) for s in shapes]
    tree = jax.eval_shape(model.init, jax.random.key(0), *arguments)["params"]

    def draw(path, leaf):
        normal = rng.standard_normal(leaf.shape, np.float32)
        if path[-1].key == "scale":
            return 1 + 0.1 * normal
        if path[-1].key == "bias":
            return 0.1 * normal
        stacked = any(part.key in torch_port.STACKED for part in path)
        taps = leaf.shape[0] if leaf.ndim == 3 and not stacked else 1
        fan_in = leaf.shape[-2] * taps
        return normal / np.float32(np.sqrt(fan_in))

    return jax.tree.map_with_path(draw, tree)
