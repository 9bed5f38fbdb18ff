"""Beside `tools.bench_sampler`: the networks, and samplers with a full context."""

import collections
import os
import time

import jax
import numpy as np

from toktalk_jax import models
from toktalk_jax import motion as mo
from toktalk_jax.streaming import Sampler

TOKENS = 512
# The networks of configs/base.py and configs/small.py, which want ml_collections.
SIZES = {
    "paper": (256, dict()),
    "small": (
        64,
        dict(
            channels=(96, 96),
            blocks_per_stage=1,
            mid_blocks=2,
            heads=2,
            head_dim=64,
            skip_std=0.5,
        ),
    ),
    "tiny": (  # for tests
        6,
        dict(channels=(16, 16), blocks_per_stage=1, mid_blocks=1, heads=2, head_dim=8),
    ),
}


def network(size):
    """(velocity field, its random parameters, style width) of a key of SIZES."""
    width, options = SIZES[size]
    model, rng = models.VelocityField(**options), np.random.default_rng(0)
    shapes = [(1, 4, mo.F), (1,), (1, 4, TOKENS), (1, 4, width)]
    arguments = [jax.ShapeDtypeStruct(s, np.float32) for s in shapes]
    tree = jax.eval_shape(model.init, jax.random.key(0), *arguments)["params"]

    def draw(path, leaf):
        if path[-1].key != "kernel":
            return np.full(leaf.shape, float(path[-1].key == "scale"), np.float32)
        normal = rng.standard_normal(leaf.shape, np.float32)
        return normal / np.float32(np.sqrt(leaf.shape[-2]))

    return model, jax.tree.map_with_path(draw, tree), width


def random_stats():
    """Statistics that change nothing."""
    zeros, ones = (lambda n, v=v: np.full(n, v, np.float32) for v in (0, 1))
    return mo.Stats(zeros(mo.F), ones(mo.F), zeros(TOKENS), ones(TOKENS))


def make_case(size, seconds, context, steps, batch, dtype):
    """A sampler with a stream whose context is full, and what starting it took.

    Returns:
      dict: "case" (its sizes), "started" (see `first_call`), "sampler", "stream",
      "tokens".
    """
    model, params, width = network(size)
    sampler = Sampler(
        model,
        params,
        random_stats(),
        chunk_frames=mo.chunk_frames(seconds),
        context_frames=context,
        num_steps=steps,
        dtype=dtype,
    )
    rng = np.random.default_rng(1)
    shape = (batch, sampler.chunk_tokens, TOKENS)
    tokens = rng.standard_normal(shape, np.float32)
    style = rng.standard_normal((batch, width), np.float32)
    stream = sampler.init(jax.random.split(jax.random.key(0), batch), style)
    stream, started = first_call(sampler, stream, tokens)
    for _ in range(context // sampler.chunk_frames):
        stream, _ = sampler.step(stream, tokens)
    return {
        "case": {
            "chunk_s": seconds,
            "context_frames": context,
            "num_steps": steps,
            "batch": batch,
            "dtype": dtype,
        },
        "started": started,
        "sampler": sampler,
        "stream": jax.block_until_ready(stream),
        "tokens": tokens,
    }


def first_call(sampler, stream, tokens):
    """(stream, seconds of the first chunk: tracing, lowering, compiling, all)."""
    spent = collections.Counter()

    def listen(name, seconds, **_):
        spent[name.rsplit("/", 1)[-1].removesuffix("_duration")] += seconds

    jax.monitoring.register_event_duration_secs_listener(listen)
    begin = time.perf_counter()
    stream = jax.block_until_ready(sampler.step(stream, tokens)[0])
    whole = time.perf_counter() - begin
    jax.monitoring.unregister_event_duration_listener(listen)
    return stream, {
        "trace_s": spent["jaxpr_trace"],
        "lower_s": spent["jaxpr_to_mlir_module"],
        "compile_s": spent["backend_compile"],
        "first_call_s": whole,
    }


def cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))
