"""One chunk of a stream as pure functions: prefill of the known frames, then the solve.

Known frames are overwritten at every Euler step and never see new ones. So all that a
solve reads of them, at every time of its grid and in both guidance branches, can be
computed as one batch before the tokens arrive (`prefill`); then only new frames run
(`solve`). Both give what whole windows would give. Source: paper section 3.4.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from toktalk_jax import flow
from toktalk_jax import motion as mo
from toktalk_jax.models import velocity
from toktalk_jax.models.adapter import adapt_clip


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What a solve is built from; the arguments of `streaming.Sampler`.

    Attributes:
      model: `models.VelocityField` with unstacked layers; unpack: gives its parameters
        and the adapter's from those that come (`layers.pack`).
      times: [n + 1] grid; dtype: of weights and activations.
    """

    model: object
    unpack: object
    stats: mo.Stats
    adapter: object
    chunk_frames: int
    context_frames: int
    times: np.ndarray
    known: str
    temperature: float
    dtype: object


@flax.struct.dataclass
class History:
    """What the known frames leave to the new ones.

    Attributes:
      layers: the velocity field's collection "history", every leaf [B, n, 2, ...]: one
        entry per Euler step (one for all if known frames are clean) and branch.
      plan: the `Plan` it was computed for; no other can use it.
    """

    layers: dict
    plan: Plan = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class Stream:
    """State of B streams between chunks.

    Attributes:
      key: [B] typed PRNG keys, one per row; chunk c draws from fold_in(key, c).
      chunk: [B] int32, chunks solved so far.
      frames: [B] int32, frames solved so far; those of the context before are padding.
      motion: [B, context, F] normalised motion of the known frames.
      noise: [B, context, F] the noise that those frames were born with.
      tokens: [B, context / 2, A] standardised base tokens of the known frames.
      known_style: [B, context, K] the style that each known frame was solved with.
      foreign: [B, adapter context, A'] standardised tokens before the adapter; 0 wide
        without one.
      style: [B, K] of the frames to come; guidance: [B] weight w of Eq. 5.
      history: `History` of the known frames; None wherever it is not computed yet.
      pending: [B, s, A'] host array, raw tokens that fill no chunk yet; None once the
        stream has ended.
    """

    key: jax.Array
    chunk: jax.Array
    frames: jax.Array
    motion: jax.Array
    noise: jax.Array
    tokens: jax.Array
    known_style: jax.Array
    foreign: jax.Array
    style: jax.Array
    guidance: jax.Array
    history: History | None
    pending: np.ndarray | None


def prefill(plan, params, stream):
    """`History` of a stream's known frames; zeros, quickly, where no row has any."""
    run = lambda: _run_known(plan, params, stream)  # noqa: E731
    empty = jax.eval_shape(run)
    layers = lax.cond(
        (stream.frames > 0).any(),
        run,
        lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), empty),
    )
    return History(layers, plan)


def _run_known(plan, params, stream):
    params, _ = plan.unpack(params)
    B, O = stream.motion.shape[:2]
    times = jnp.ones(1) if plan.known == "clean" else jnp.asarray(plan.times[:-1])
    n = len(times)
    t = times[None, :, None, None]
    x = (1 - t) * stream.noise[:, None] + t * stream.motion[:, None]
    audio = jnp.repeat(stream.tokens, mo.FRAMES_PER_TOKEN, 1)
    block, valid = _layout(plan, stream)
    given = (
        jnp.arange(2)[None, None, :, None, None] == 0
    )  # the null branch comes second

    def rows(a, kept=True):
        """[B, n or 1, 1, ...] to [B * n * 2, ...]."""
        a = jnp.where(kept, a, 0) if kept is not True else a
        a = jnp.broadcast_to(a, (B, n, 2, *a.shape[3:]))
        return a.reshape(B * n * 2, *a.shape[3:])

    inputs = (
        rows(x[:, :, None]),
        rows(times[None, :, None]),
        rows(audio[:, None, None], given),
        rows(stream.known_style[:, None, None], given),
    )
    _, left = _velocity(
        plan,
        {"params": params},
        *inputs,
        rows(block[:, None, None, :O]),
        rows(valid[:, None, None, :O]),
        mutable=["history"],
    )
    return jax.tree.map(lambda a: a.reshape(B, n, 2, *a.shape[1:]), left["history"])


def solve(plan, params, stream, tokens):
    """Raw tokens [B, C / 2, A'] to (stream without a history, raw motion [B, C, F])."""
    (params, before), C = plan.unpack(params), plan.chunk_frames
    foreign, tokens = _to_base(plan, before, stream, tokens)
    audio = jnp.repeat(tokens, mo.FRAMES_PER_TOKEN, 1)
    style = jnp.broadcast_to(
        stream.style[:, None], (*audio.shape[:2], stream.style.shape[-1])
    )
    keys = jax.vmap(jax.random.fold_in)(stream.key, stream.chunk)
    fresh = jax.vmap(lambda k: jax.random.normal(k, (C, mo.F)))(keys)
    noise = plan.temperature * fresh
    layout = [jnp.repeat(a, 2, 0) for a in _layout(plan, stream)]
    width = mo.F + audio.shape[-1] + style.shape[-1]
    moments = velocity.project_times(params, jnp.asarray(plan.times[:-1]), width)
    stored = stream.history.layers

    def field(x, t, i):
        entry = 0 if plan.known == "clean" else i
        at = lambda a: lax.dynamic_index_in_dim(a, entry, 1, False)  # noqa: E731
        variables = {
            "params": params,
            "history": jax.tree.map(lambda a: at(a).reshape(-1, *a.shape[3:]), stored),
            "times": jax.tree.map(lambda a: a[i][None], moments),
        }
        at_step = lambda *a: _velocity(plan, variables, *a, *layout)  # noqa: E731
        t = jnp.broadcast_to(t, x.shape[:1])
        return flow.guided(at_step, stream.guidance)(x, t, audio, style)

    x = flow.euler(field, noise, plan.times)
    after = lambda a, new: jnp.concatenate([a, new], 1)[:, -a.shape[1] :]  # noqa: E731
    stream = stream.replace(
        chunk=stream.chunk + 1,
        frames=stream.frames + C,
        motion=after(stream.motion, x),
        noise=after(stream.noise, noise),
        tokens=after(stream.tokens, tokens),
        known_style=after(stream.known_style, style),
        foreign=foreign,
        history=None,
    )
    stats = plan.stats
    return stream, stats.motion_mean[None, None] + stats.motion_std[None, None] * x


def _velocity(plan, variables, x, t, audio, style, block, valid, **options):
    x, audio, style = (a.astype(plan.dtype) for a in (x, audio, style))
    out = plan.model.apply(variables, x, t, audio, style, block, valid, **options)
    return out if options else out.astype(jnp.float32)


def _layout(plan, stream):
    """(block_id, valid), each [B, context + C]."""
    frame = jnp.arange(-plan.context_frames, plan.chunk_frames)
    # Frames from before the clip began are padding.
    valid = frame[None] >= -stream.frames[:, None]
    # Blocks are anchored at the end of the known part.
    block = jnp.broadcast_to((frame // plan.chunk_frames)[None], valid.shape)
    return block, valid


def _to_base(plan, params, stream, tokens):
    """Raw tokens to (foreign context, standardised base tokens of the chunk)."""
    adapter, count = plan.adapter, tokens.shape[1]
    if adapter is None:
        mean, std = plan.stats.token_mean, plan.stats.token_std
        return stream.foreign, standardise(tokens, mean, std)
    tokens = standardise(tokens, adapter.token_mean, adapter.token_std)
    window = jnp.concatenate([stream.foreign, tokens], 1)
    place = jnp.arange(-adapter.context_tokens, count)
    seen = mo.FRAMES_PER_TOKEN * place[None] >= -stream.frames[:, None]
    # Positions and blocks that the adapter was not trained on would be noise to it.
    sizes = range(1, adapter.chunk_tokens + 1)
    part = max(size for size in sizes if count % size == 0)
    base = adapt_clip(adapter.model, params, window, seen, part, adapter.context_tokens)
    return window[:, count:], base


def standardise(tokens, mean, std):
    """Raw tokens [B, S, A] to z-scores; a dimension that never moves keeps scale 1."""
    scale = np.where(std > 1e-8, std, 1.0)
    return (tokens - mean[None, None]) / scale[None, None]
