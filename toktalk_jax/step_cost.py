"""What a training step costs, told without running one: parameters, memory, FLOPs."""

import json
import math

import jax
import numpy as np
from flax import traverse_util

from toktalk_jax import flops
from toktalk_jax import motion as mo
from toktalk_jax.data import windows
from toktalk_jax.methods import METHODS

PAPER_WIDTH = 512  # of Mimi's embeddings, where no dataset says


def describe(config):
    """The resolved config, the parameter table, memory and FLOPs, as text.

    Raises:
      ValueError, FileNotFoundError: a dataset that is not there or not meant.
    """
    width, clips, note = _data(config)
    params, loss_sums = _traced(config, width)
    operations = step_flops(config, params, loss_sums, width)
    memory = step_memory(config, params, loss_sums, width)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    lines = ["# Config", "", json.dumps(config.to_dict(), indent=1), ""]
    lines += ["# Parameters", "", *_table(params), f"{count:14,}  in all", ""]
    lines += ["# Memory of a device, GB (10^9 bytes), an estimate", ""]
    lines += [f"{size / 1e9:10.3f}  {name}" for name, size in memory.items()]
    lines += [f"{sum(memory.values()) / 1e9:10.3f}  in all", ""]
    frames = config.batch_size * np.mean(config.train.window_frames)
    lines += [
        "# Step",
        "",
        note,
        f"{operations / 1e9:,.1f} GFLOP of matrix products (forward and backward)",
        f"{config.batch_size} windows, {frames:,.0f} frames, "
        f"{frames / mo.FPS / 60:.1f} minutes; over {jax.device_count()} devices",
    ]
    if clips:
        epochs = config.total_steps * config.batch_size / clips
        lines.append(f"{config.total_steps:,} steps are {epochs:,.1f} epochs")
    return "\n".join(lines)


def _data(config):
    """(token width, training clips, a line about where they are from)."""
    from toktalk_jax.data import dataset

    if not config.dataset:
        return PAPER_WIDTH, 0, f"no dataset is given: tokens are {PAPER_WIDTH} wide"
    expect = {"tokenizer": config.tokenizer} if config.tokenizer else {}
    found = [dataset.read_metadata(p, expect) for p in config.dataset.split(",")]
    clips = sum(facts["clips"]["train"] for facts in found)
    return (
        found[0]["base_dim"],
        clips,
        f"{clips} training clips with {found[0]['tokenizer']} tokens, "
        f"{found[0]['base_dim']} wide",
    )


def _traced(config, width):
    """(params as shapes, loss sums) of a config, with nothing allocated."""
    stats = mo.Stats(*(np.ones(n, np.float32) for n in (mo.F, mo.F, width, width)))
    found = []

    def build():
        params, loss_sums = METHODS[config.method].build(
            config.to_dict(), jax.random.key(0), stats, ["a"], np.ones(mo.F)
        )
        found.append(loss_sums)
        return params

    return jax.eval_shape(build), found[0]


def step_flops(config, params, loss_sums, width):
    """Floating point operations of a step of the global batch, mean over its windows.

    Args:
      params: arrays or shapes; loss_sums: of the method; width: of the tokens.
    """
    gradient, key = jax.grad(loss_sums, has_aux=True), jax.random.key(0)
    return float(
        np.mean(
            [
                flops.count(gradient, params, batch_shapes(config, frames, width), key)
                for frames in config.train.window_frames
            ]
        )
    )


def step_peak(config):
    """FLOP/s of all devices together, in the dtype of the config."""
    dtype = config.train.dtype if "dtype" in config.train else "float32"
    found, _ = flops.peak(jax.local_devices()[0], dtype)
    # Simulated devices are one processor's.
    shared = jax.default_backend() == "cpu"
    return found * (jax.process_count() if shared else jax.device_count())


def step_memory(config, params, loss_sums, width):
    """{what: bytes on one device}: state, gradient, what the backward pass reads."""
    size = lambda tree: sum(  # noqa: E731
        math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
    )
    rows = batch_shapes(config, max(config.train.window_frames), width)

    def kept_for_backward(params, batch):
        loss = lambda p: loss_sums(p, batch, jax.random.key(0))[0]  # noqa: E731
        return jax.vjp(loss, params)[1]

    kept = jax.eval_shape(kept_for_backward, params, rows)
    own = size(params)
    parts = jax.device_count() * accumulation(config)
    return {
        "parameters": own,
        "EMA": own,
        "Adam's two moments": 2 * own,
        "gradient": own * (2 if accumulation(config) > 1 else 1),
        "activations kept for the backward pass": max(size(kept) - own, 0) / parts,
    }


def accumulation(config):
    """Micro-batches a step; a method whose config does not speak of them has one."""
    return config.train.accumulation if "accumulation" in config.train else 1


def batch_shapes(config, frames, width):
    """`windows.shapes` of a config's global batch."""
    longest = max(config.train.style_frames)
    return windows.shapes(config.batch_size, frames, longest, width)


def _table(params):
    """One line a module, two levels deep: how many parameters, of which shapes."""
    groups = {}
    for path, leaf in traverse_util.flatten_dict(params).items():
        groups.setdefault("/".join(map(str, path[:2])), []).append(leaf)
    for name, leaves in groups.items():
        count = sum(math.prod(leaf.shape) for leaf in leaves)
        largest = max(leaves, key=lambda leaf: math.prod(leaf.shape)).shape
        yield f"{count:14,}  {name} ({len(leaves)} arrays, largest {list(largest)})"
