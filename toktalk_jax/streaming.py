"""The sampler: chunks of token embeddings in, chunks of face motion out.

A stream is an immutable pytree whose every leaf leads with B, so rows may join and
leave; one step maps (stream, tokens) to (stream, motion). Online (`push`) and offline
(`sample_clip`) are two drivers over the same step. Source: paper section 3.4.

A step is two jitted functions of `toktalk_jax.chunk`: the solve of the new frames, and
then, while the next tokens are still to come, the prefill of the known ones.
"""

import copy
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from toktalk_jax import chunk, flow
from toktalk_jax import motion as mo
from toktalk_jax.chunk import Stream
from toktalk_jax.models import layers


@dataclasses.dataclass(frozen=True)
class AdapterSpec:
    """An adaptation layer in front of the sampler.

    Attributes:
      model, params: `models.Adapter` and its parameters.
      token_mean, token_std: [A'] statistics of the foreign tokens.
      context_tokens: window before the chunk that the adapter reads; chunk_tokens: of
        the chunk, in its training.
    """

    model: object
    params: object
    token_mean: np.ndarray
    token_std: np.ndarray
    context_tokens: int = 25
    chunk_tokens: int = 5


class Sampler:
    """Streams motion out of tokens with fixed weights.

    Between chunks a stream holds the history of its known frames, so that a chunk costs
    its new frames only: at paper size, n = 20 and 50 frames of context 295 MB of f32 a
    row, a twentieth of it if known frames are clean. It follows rows that join and
    leave like any other leaf; `stream.replace(history=None)` drops it, and the next
    step, of this or of another sampler, computes its own first.

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
      adapter: optional `AdapterSpec`; tokens are then foreign tokens. It never sees
        more of them at once than in training: a longer chunk is adapted in parts.

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
        self.stats, self.adapter = stats, adapter
        # Motion, tokens and style enter the network side by side.
        first = params["down_0"]["residual"]["block1"]["conv"]["kernel"]
        self.style_width = first.shape[1] - mo.F - len(stats.token_mean)
        (field, before), unpack = _weights(params, adapter)
        self.plan = chunk.Plan(
            model.clone(stacked=False),
            unpack,
            stats,
            adapter,
            chunk_frames,
            context_frames,
            flow.time_grid(num_steps, grid),
            known,
            temperature,
            jnp.dtype(dtype),
        )
        # A training mesh may hold the parameters; sampling wants one device.
        self.device = jax.local_devices()[0]
        self.params = self._placed(field), jax.device_put(before, self.device)
        self.chunk_frames, self.context_frames = chunk_frames, context_frames
        self.times, self.guidance = self.plan.times, guidance
        self.known, self.temperature = known, temperature
        self.chunk_tokens = chunk_frames // mo.FRAMES_PER_TOKEN
        self.width = len(stats.token_mean if adapter is None else adapter.token_mean)
        self._prefill = jax.jit(functools.partial(chunk.prefill, self.plan))
        self._solve = jax.jit(functools.partial(chunk.solve, self.plan))
        self._clip = jax.jit(functools.partial(_scan_clip, self.plan))

    def _placed(self, packed):
        """The field's parameters on the device, in the field's dtype."""
        packed = jax.device_put(packed, self.device)
        return jax.tree.map(lambda p: p.astype(self.plan.dtype), packed)

    def with_params(self, params):
        """The same sampler of other weights, for new streams; compiled code stays."""
        other = copy.copy(self)
        other.params = self._placed(_packed(params)[0]), self.params[1]
        return other

    def init(self, keys, style, guidance=None):
        """Open B streams.

        Args:
          keys: [B] PRNG keys (typed or raw); style: [B, K]; guidance: scalar or [B].

        Raises:
          ValueError: a style of another shape than the model takes.
        """
        stream = self._open(keys, style, guidance)
        pending = np.zeros((len(stream.chunk), 0, self.width), np.float32)
        return self.ready(stream).replace(pending=pending)

    def _open(self, keys, style, guidance):
        """A stream without a history and without a host array."""
        keys = _typed(keys)
        style = np.asarray(style, np.float32)
        B, O = len(keys), self.context_frames
        A, K = len(self.stats.token_mean), self.style_width
        if style.shape != (B, K):
            raise ValueError(
                f"style is {style.shape}, expected [{B}, {K}]: one vector of this "
                f"model for each of {B} keys"
            )
        before = self.adapter.context_tokens if self.adapter else 0
        guidance = self.guidance if guidance is None else guidance
        zeros = lambda *shape: np.zeros((B, *shape), np.float32)  # noqa: E731
        # In NumPy: nothing here compiles, for any B.
        stream = Stream(
            key=keys,
            chunk=np.zeros(B, np.int32),
            frames=np.zeros(B, np.int32),
            motion=zeros(O, mo.F),
            noise=zeros(O, mo.F),
            tokens=zeros(O // mo.FRAMES_PER_TOKEN, A),
            known_style=zeros(O, K),
            foreign=zeros(before, self.width if self.adapter else 0),
            style=style,
            guidance=np.broadcast_to(np.asarray(guidance, np.float32), (B,)),
            history=None,
            pending=None,
        )
        # Placed like a step's output, or the second chunk would compile once more.
        return jax.device_put(stream, self.device)

    def warm_up(self, batches=(1,)):
        """Compile all that a stream of these batch sizes will run.

        Nothing compiles afterwards, whatever is pushed, joined with its like or
        flushed; a persistent cache (`jax_compilation_cache_dir`) makes it seconds.
        """
        K = self.style_width
        for B in batches:
            keys = jax.random.split(jax.random.key(0), B)
            stream = self.init(keys, np.zeros((B, K), np.float32))
            tokens = np.zeros((B, self.chunk_tokens, self.width), np.float32)
            for _ in range(2):
                stream, motion = self.step(stream, tokens)
            jax.block_until_ready((stream, motion))

    def step(self, stream, tokens):
        """Solve one chunk: raw tokens [B, C / 2, A] to (stream, motion [B, C, F]).

        Returns as soon as the work is queued. `motion` is there first; the prefill for
        the next chunk follows, and `jax.block_until_ready(stream)` waits for it.
        """
        stream, motion = self.solve(stream, tokens)
        return self.ready(stream), motion

    def solve(self, stream, tokens):
        """`step`, but for the prefill: the next chunk makes up for it in its own time.

        For streams that are kept elsewhere in between, without their history.
        """
        tokens = self._checked(tokens, len(stream.chunk))
        if tokens.shape[1] != self.chunk_tokens:
            raise ValueError(
                f"a chunk is {self.chunk_tokens} tokens, {tokens.shape[1]} came; "
                "push() takes any number"
            )
        pending, stream = stream.pending, self.ready(stream).replace(pending=None)
        stream, motion = self._solve(self.params, stream, tokens)
        return stream.replace(pending=pending), motion

    def ready(self, stream):
        """The stream with the history that this sampler needs of it."""
        if stream.history is not None and stream.history.plan is self.plan:
            return stream
        bare = stream.replace(history=None, pending=None)
        return stream.replace(history=self._prefill(self.params, bare))

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
        stream, motion = self.solve(stream, self._padded(pending))
        # In NumPy: a slice on the device compiles once for every length of the tail.
        return stream, np.asarray(motion)[:, : count * mo.FRAMES_PER_TOKEN]

    def sample_clip(self, keys, tokens, style, guidance=None):
        """Whole clips by the same chunk recursion, as one `lax.scan` over chunks.

        Args:
          keys: [B]; tokens: [B, S, A] raw embeddings; style: [B, K].

        Returns:
          [B, 2 S, F] motion, raw coefficients.
        """
        stream = self._open(keys, style, guidance)
        tokens = self._checked(tokens, len(stream.chunk))
        B, S, _ = tokens.shape
        if not S:
            raise ValueError("the clip holds no tokens; expected at least one")
        chunks = self._padded(tokens).reshape(B, -1, self.chunk_tokens, self.width)
        motion = self._clip(self.params, stream, chunks.swapaxes(0, 1))
        return motion[:, : S * mo.FRAMES_PER_TOKEN]

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


def _weights(params, adapter):
    """((packed weights of the field, of the adapter), what unpacks such a pair)."""
    field, unpack_field = _packed(params)
    before, unpack_adapter = (), lambda _: None
    if adapter:
        before, unpack_adapter = layers.pack(adapter.params)
    unpack = lambda pair: (unpack_field(pair[0]), unpack_adapter(pair[1]))  # noqa: E731
    return (field, before), unpack


def _packed(params):
    return layers.pack(layers.unstack(jax.tree.map(np.asarray, params)))


def _scan_clip(plan, params, stream, chunks):
    def step(stream, tokens):
        history = chunk.prefill(plan, params, stream)
        return chunk.solve(plan, params, stream.replace(history=history), tokens)

    _, motion = lax.scan(step, stream, chunks)  # [chunks, B, C, F]
    return motion.swapaxes(0, 1).reshape(motion.shape[1], -1, mo.F)


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
