"""The sampler: chunks of token embeddings in, chunks of face motion out.

A stream is an immutable pytree whose every leaf leads with B, so rows may join and
leave; one jitted step maps (stream, tokens) to (stream, motion). Online (`push`) and
offline (`sample_clip`) are two drivers over the same step. Source: paper section 3.4.
"""

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from toktalk_jax import flow
from toktalk_jax import motion as mo
from toktalk_jax.models import layers
from toktalk_jax.models.adapter import adapt_chunk


@flax.struct.dataclass
class Stream:
    """State of B streams between chunks.

    Attributes:
      key: [B] typed PRNG keys, one per row; chunk c draws from fold_in(key, c).
      chunk: [B] int32, chunks solved so far.
      motion: [B, context, F] normalised motion of the known frames.
      noise: [B, context, F] the noise that those frames were born with.
      tokens: [B, context / 2, A] standardised base tokens of the known frames.
      foreign: [B, adapter context, A'] standardised tokens before the adapter; 0 wide
        without one.
      style: [B, K]; guidance: [B] weight w of Eq. 5.
      pending: [B, s, A'] host array, raw tokens that fill no chunk yet; None once the
        stream has ended.
    """

    key: jax.Array
    chunk: jax.Array
    motion: jax.Array
    noise: jax.Array
    tokens: jax.Array
    foreign: jax.Array
    style: jax.Array
    guidance: jax.Array
    pending: np.ndarray


@dataclasses.dataclass(frozen=True)
class AdapterSpec:
    """An adaptation layer in front of the sampler.

    Attributes:
      model, params: `models.Adapter` and its parameters.
      token_mean, token_std: [A'] statistics of the foreign tokens.
      context_tokens: window before the chunk that the adapter reads.
    """

    model: object
    params: object
    token_mean: np.ndarray
    token_std: np.ndarray
    context_tokens: int = 25


class Sampler:
    """Streams motion out of tokens with fixed weights.

    Args:
      model: `models.VelocityField`; params: its parameters.
      stats: `motion.Stats` of the training data.
      chunk_frames: frames per chunk C, even; context_frames: known frames before it,
        even, at least 2.
      num_steps: Euler steps n; guidance: default weight w.
      known: "noised", the paper's overwriting of known frames by the path at t with
        the noise they were born with, or "clean", their value at t = 1 (wants training
        with prefixes).
      grid: "linear" or "cosine".
      temperature: scale of the noise; 0 makes the solve deterministic.
      dtype: "float32" or "bfloat16": weights and activations of the velocity field. The
        solve's state, softmax and norms stay f32. Half the bytes of weights per step.
      adapter: optional `AdapterSpec`; tokens are then foreign tokens.

    Raises:
      ValueError: a size that fits no whole token, an unknown option, or an adapter to
        tokens of another width.
    """

    def __init__(
        self,
        model,
        params,
        stats,
        *,
        chunk_frames=10,
        context_frames=50,
        num_steps=20,
        guidance=0.3,
        known="noised",
        grid="linear",
        temperature=1.0,
        dtype="float32",
        adapter=None,
    ):
        _check_even(chunk_frames, "chunk_frames", model)
        _check_even(context_frames, "context_frames", model)
        if num_steps < 1:
            raise ValueError(f"num_steps is {num_steps}; expected at least 1")
        if known not in ("noised", "clean"):
            raise ValueError(f"known is {known!r}; expected 'noised' or 'clean'")
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is {dtype!r}; expected 'float32' or 'bfloat16'")
        if adapter and adapter.model.out_dim != len(stats.token_mean):
            raise ValueError(
                f"the adapter gives tokens {adapter.model.out_dim} wide, the model "
                f"takes {len(stats.token_mean)}: it is another base's"
            )
        self.model = model.clone(stacked=False)
        self.stats, self.adapter = stats, adapter
        self.dtype = jnp.dtype(dtype)
        # A training mesh may hold the parameters; sampling wants one device.
        self.device = jax.local_devices()[0]
        params = layers.unstack(jax.tree.map(np.asarray, params))
        params = jax.device_put(params, self.device)
        self.params = jax.tree.map(lambda p: p.astype(self.dtype), params)
        self.chunk_frames, self.context_frames = chunk_frames, context_frames
        self.times = flow.time_grid(num_steps, grid)
        self.guidance, self.known, self.temperature = guidance, known, temperature
        self.chunk_tokens = chunk_frames // mo.FRAMES_PER_TOKEN
        self.width = len(stats.token_mean if adapter is None else adapter.token_mean)
        self._step = jax.jit(self._solve_chunk)
        self._clip = jax.jit(self._scan_clip)

    def init(self, keys, style, guidance=None):
        """Open B streams.

        Args:
          keys: [B] PRNG keys (typed or raw); style: [B, K]; guidance: scalar or [B].

        Raises:
          ValueError: a style of another shape than the model takes.
        """
        keys = _typed(keys)
        style = jnp.asarray(style, jnp.float32)
        B, O = len(keys), self.context_frames
        A = len(self.stats.token_mean)
        # Motion, tokens and style enter the network side by side.
        first = self.params["down_0"]["residual"]["block1"]["conv"]["kernel"]
        K = first.shape[1] - mo.F - A
        if style.shape != (B, K):
            raise ValueError(
                f"style is {style.shape}, expected [{B}, {K}]: one vector of this "
                f"model for each of {B} keys"
            )
        w = self.guidance if guidance is None else guidance
        before = self.adapter.context_tokens if self.adapter else 0
        stream = Stream(
            key=keys,
            chunk=jnp.zeros(B, jnp.int32),
            motion=jnp.zeros((B, O, mo.F)),
            noise=jnp.zeros((B, O, mo.F)),
            tokens=jnp.zeros((B, O // mo.FRAMES_PER_TOKEN, A)),
            foreign=jnp.zeros((B, before, self.width if self.adapter else 0)),
            style=style,
            guidance=jnp.broadcast_to(jnp.asarray(w, jnp.float32), (B,)),
            pending=None,
        )
        # Placed like a step's output, or the second chunk would compile once more.
        stream = jax.device_put(stream, self.device)
        return stream.replace(pending=np.zeros((B, 0, self.width), np.float32))

    def step(self, stream, tokens):
        """Solve one chunk: raw tokens [B, C / 2, A] to (stream, motion [B, C, F])."""
        tokens = self._checked(tokens, len(stream.chunk))
        if tokens.shape[1] != self.chunk_tokens:
            raise ValueError(
                f"a chunk is {self.chunk_tokens} tokens, {tokens.shape[1]} came; "
                "push() takes any number"
            )
        pending = stream.pending
        stream, motion = self._step(self.params, stream.replace(pending=None), tokens)
        return stream.replace(pending=pending), motion

    def push(self, stream, tokens):
        """Feed tokens [B, s, A] of any length s.

        Returns:
          (stream, list of motion [B, C, F]), one entry per chunk that became complete.

        Raises:
          ValueError: wrong shape, or non-finite tokens (the stream is unchanged); a
            stream that was flushed.
        """
        if stream.pending is None:
            raise ValueError("this stream has ended (flush); open another with init()")
        tokens = self._checked(tokens, len(stream.chunk))
        waiting = np.concatenate([stream.pending, tokens], 1)
        chunks = []
        while waiting.shape[1] >= self.chunk_tokens:
            head, waiting = np.split(waiting, [self.chunk_tokens], 1)
            stream, motion = self.step(stream, head)
            chunks.append(motion)
        return stream.replace(pending=waiting), chunks

    def flush(self, stream):
        """End the streams: solve the ragged tail, if any. They take no more tokens.

        Returns:
          (stream, motion [B, 2 s, F] or None), s being the tokens that were pending.
        """
        pending = stream.pending
        count = 0 if pending is None else pending.shape[1]
        stream = stream.replace(pending=None)
        if not count:
            return stream, None
        stream, motion = self.step(stream, self._padded(pending))
        return stream, motion[:, : count * mo.FRAMES_PER_TOKEN]

    def sample_clip(self, keys, tokens, style, guidance=None):
        """Whole clips by the same chunk recursion, as one `lax.scan` over chunks.

        Args:
          keys: [B]; tokens: [B, S, A] raw embeddings; style: [B, K].

        Returns:
          [B, 2 S, F] motion, raw coefficients.
        """
        stream = self.init(keys, style, guidance)
        tokens = self._checked(tokens, len(stream.chunk))
        B, S, _ = tokens.shape
        if not S:
            raise ValueError("the clip holds no tokens; expected at least one")
        chunks = self._padded(tokens).reshape(B, -1, self.chunk_tokens, self.width)
        motion = self._clip(
            self.params, stream.replace(pending=None), chunks.swapaxes(0, 1)
        )
        return motion[:, : S * mo.FRAMES_PER_TOKEN]

    def _scan_clip(self, params, stream, chunks):
        step = functools.partial(self._solve_chunk, params)
        _, motion = lax.scan(step, stream, chunks)  # [chunks, B, C, F]
        return motion.swapaxes(0, 1).reshape(motion.shape[1], -1, mo.F)

    def _solve_chunk(self, params, stream, tokens):
        """The chunk: everything between raw tokens and raw motion, one jit."""
        C, O = self.chunk_frames, self.context_frames
        foreign, new = self._to_base(stream, tokens)
        tokens = jnp.concatenate([stream.tokens, new], 1)
        audio = jnp.repeat(tokens, mo.FRAMES_PER_TOKEN, 1)
        style = jnp.broadcast_to(
            stream.style[:, None], (*audio.shape[:2], stream.style.shape[-1])
        )
        keys = jax.vmap(jax.random.fold_in)(stream.key, stream.chunk)
        fresh = jax.vmap(lambda k: jax.random.normal(k, (C, mo.F)))(keys)
        noise = jnp.concatenate([stream.noise, self.temperature * fresh], 1)
        target = jnp.concatenate([stream.motion, jnp.zeros_like(fresh)], 1)
        # Frames from before the clip began are padding.
        frame = jnp.arange(-O, C)
        valid = frame[None] >= -C * stream.chunk[:, None]
        # Blocks are anchored at the end of the known part.
        block = jnp.broadcast_to((frame // C)[None], valid.shape)
        is_known = (frame < 0)[None, :, None]

        def overwrite(x, t):
            path = target if self.known == "clean" else (1 - t) * noise + t * target
            return jnp.where(is_known, path, x)

        def velocity(x, t, audio, style):
            twice = lambda a: jnp.concatenate([a, a])  # noqa: E731
            x, audio, style = (a.astype(self.dtype) for a in (x, audio, style))
            layout = twice(block), twice(valid)
            v = self.model.apply({"params": params}, x, t, audio, style, *layout)
            return v.astype(jnp.float32)

        field = flow.guided(velocity, stream.guidance)

        def field_at(x, t):
            times = jnp.broadcast_to(t, valid.shape[:1])
            if self.known == "clean":
                times = jnp.where(frame < 0, 1.0, t)[None]
                times = jnp.broadcast_to(times, valid.shape)
            return field(x, times, audio, style)

        x = flow.euler(field_at, noise, self.times, overwrite)
        stream = stream.replace(
            chunk=stream.chunk + 1,
            motion=jnp.concatenate([stream.motion, x[:, O:]], 1)[:, C:],
            noise=noise[:, C:],
            tokens=tokens[:, self.chunk_tokens :],
            foreign=foreign,
        )
        stats = self.stats
        motion = stats.motion_mean[None, None] + stats.motion_std[None, None] * x[:, O:]
        return stream, motion

    def _to_base(self, stream, tokens):
        """Raw tokens to (foreign context, standardised base tokens of the chunk)."""
        if self.adapter is None:
            mean, std = self.stats.token_mean, self.stats.token_std
            return stream.foreign, _standardise(tokens, mean, std)
        tokens = _standardise(tokens, self.adapter.token_mean, self.adapter.token_std)
        window = jnp.concatenate([stream.foreign, tokens], 1)
        place = jnp.arange(-self.adapter.context_tokens, self.chunk_tokens)
        seen = place[None] >= -self.chunk_tokens * stream.chunk[:, None]
        base = adapt_chunk(
            self.adapter.model, self.adapter.params, window, seen, self.chunk_tokens
        )
        return window[:, self.chunk_tokens :], base

    def _padded(self, tokens):
        """Tokens padded with the mean token to whole chunks."""
        spare = -tokens.shape[1] % self.chunk_tokens
        mean = (self.adapter or self.stats).token_mean
        tail = np.broadcast_to(mean, (len(tokens), spare, self.width))
        return np.concatenate([tokens, tail.astype(np.float32)], 1)

    def _checked(self, tokens, B):
        tokens = np.asarray(tokens)
        if tokens.dtype.kind != "f":
            raise ValueError(f"tokens are {tokens.dtype}; expected float embeddings")
        if tokens.ndim != 3 or tokens.shape[0] != B or tokens.shape[2] != self.width:
            raise ValueError(
                f"tokens are {tokens.shape}, expected [{B}, any, {self.width}]"
            )
        tokens = tokens.astype(np.float32)
        if not np.isfinite(tokens).all():
            count = int((~np.isfinite(tokens)).sum())
            raise ValueError(
                f"tokens hold {count} NaN or Inf values; nothing was solved"
            )
        return tokens


def _standardise(tokens, mean, std):
    scale = np.where(std > 1e-8, std, 1.0)
    return (tokens - mean[None, None]) / scale[None, None]


def _typed(keys):
    keys = jnp.asarray(keys)
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        keys = jax.random.wrap_key_data(keys)
    return jnp.atleast_1d(keys)


def _check_even(frames, name, model):
    """Frames must be whole tokens and whole blocks at the lowest rate."""
    unit = max(mo.FRAMES_PER_TOKEN, 2 ** (len(model.channels) - 1))
    if frames < unit or frames % unit:
        below = max(frames // unit, 1) * unit
        above = below if frames < unit else below + unit
        raise ValueError(
            f"{name} is {frames}; expected a multiple of {unit} frames, the nearest "
            f"being {below} and {above} ({below / mo.FPS} s and {above / mo.FPS} s)"
        )
