"""Building blocks of the networks: masks, attention, convolutions, time embedding.

Shapes: B batch, T frames, D width, N heads. Data is [B, T, D]; a mask is [B, T] bool.
The blocks follow CosyVoice's causal decoder and Matcha-TTS (PyTorch, Apache-2.0 and
MIT), from their published description; parameters map one to one (`torch_port`).
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

NORM_EPS = 1e-5  # PyTorch's; Flax's default is 1e-6
STACKED = ("mid", "blocks")  # layers whose parameters `run_layers` may stack
MASKED = -1e10  # finite, so that a masked logit never makes NaN

Norm = functools.partial(nn.LayerNorm, epsilon=NORM_EPS)

# Upstream initialises convolutions and linears with kaiming_normal(relu).
kaiming = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
Dense = functools.partial(nn.Dense, kernel_init=kaiming)


def visibility(block_id, mask):
    """Which key frame each query frame may see: [B, T, T] bool, query first.

    A frame sees every valid frame whose block is not later than its own. A query that
    would see nothing (padding) sees everything, which keeps its softmax finite; its
    output is masked later.
    """
    seen = block_id[:, None, :] <= block_id[:, :, None]
    seen = seen & mask[:, None, :]
    return seen | ~seen.any(-1, keepdims=True)


def time_frequencies(width):
    """[width // 2] angular frequencies, float64 table cast to f32 (Matcha-TTS)."""
    half = width // 2
    return np.exp(-np.arange(half) * (math.log(10000.0) / (half - 1))).astype("f4")


def embed_time(t, width):
    """Sinusoidal embedding of ODE time: t [...] in [0, 1] to [..., width]."""
    angles = (
        1000.0
        * t[..., None]
        * jnp.broadcast_to(time_frequencies(width), (*t.shape, width // 2))
    )
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


def after_past(module, name, x, count=None, axis=1):
    """`x` after the `count` frames before it, along its time axis; None: all there are.

    They come from the collection "history", where an earlier pass over those frames
    left them; without one they are zeros, or none. A pass to which the collection is
    mutable leaves the last `count` frames of what it returns. So a network runs over
    new frames alone and computes what it would over all: `velocity.VelocityField`.
    """
    if module.has_variable("history", name):
        both = jnp.concatenate([module.get_variable("history", name), x], axis)
    else:
        both = jnp.pad(
            x, [(count or 0, 0) if i == axis else (0, 0) for i in range(x.ndim)]
        )
    if module.is_mutable_collection("history") and not module.is_initializing():
        start = 0 if count is None else both.shape[axis] - count
        tail = lax.slice_in_dim(both, start, None, axis=axis)
        module.put_variable("history", name, tail)
    return both


class Conv(nn.Module):
    """1-D convolution [B, T, C] to [B, T', features] as one matmul of shifted copies.

    On two CPU cores the shifted matmul trains faster than XLA's own convolution, and
    the kernel keeps Flax's layout [width, in, features].

    Attributes:
      left, right: zero frames added before (`after_past`) and after; left = width - 1
        is causal.
    """

    features: int
    width: int
    left: int
    right: int = 0
    stride: int = 1

    @nn.compact
    def __call__(self, x):
        shape = (self.width, x.shape[-1], self.features)
        kernel = self.param("kernel", kaiming, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x = after_past(self, "tail", x, self.left)
        x = jnp.pad(x, ((0, 0), (0, self.right), (0, 0)))
        count = (x.shape[1] - self.width) // self.stride + 1
        span = (count - 1) * self.stride + 1
        taps = [x[:, i : i + span : self.stride] for i in range(self.width)]
        columns = jnp.concatenate(taps, -1) if self.width > 1 else taps[0]
        return columns @ kernel.reshape(-1, self.features) + bias[None, None]


class Upsample(nn.Module):
    """Transposed convolution, kernel 4, stride 2: [B, T, C] to [B, 2T, C].

    Right-trimming makes it causal: frame 2m reads m and m-1 only, where upstream's
    symmetric padding reads m+1. Same weights and count (network-facts 1.7).
    """

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        bound = 1 / math.sqrt(width * 4)  # PyTorch's default for ConvTranspose1d
        kernel = self.param("kernel", _uniform(bound), (4, width, width))
        bias = self.param("bias", _uniform(bound), (width,))
        past = after_past(self, "tail", x, 1)[:, :-1]
        both = jnp.concatenate([x, past], -1)
        # Output 2m + r adds kernel tap r on frame m and tap r + 2 on frame m - 1.
        taps = [jnp.concatenate([kernel[r], kernel[r + 2]]) for r in (0, 1)]
        out = jnp.stack([both @ tap for tap in taps], 2)
        return out.reshape(x.shape[0], -1, width) + bias[None, None]


def _uniform(bound):
    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class CausalBlock(nn.Module):
    """Causal convolution (3 taps), LayerNorm, Mish; masked before and after."""

    features: int

    @nn.compact
    def __call__(self, x, mask):
        x = Conv(self.features, 3, left=2, name="conv")(x * mask)
        return jax.nn.mish(Norm(name="norm")(x)) * mask


class ResidualBlock(nn.Module):
    """Two causal blocks with the time embedding added between, plus a 1x1 shortcut.

    Args:
      x: [B, T, C]; mask: [B, T, 1] float; time: [B, 1 or T, E].
    """

    features: int

    @nn.compact
    def __call__(self, x, mask, time):
        h = CausalBlock(self.features, name="block1")(x, mask)
        if self.has_variable("times", "time"):  # `velocity.project_times`
            h = h + self.get_variable("times", "time")
        else:
            h = h + Dense(self.features, name="time")(jax.nn.mish(time))
        h = CausalBlock(self.features, name="block2")(h, mask)
        return h + Dense(self.features, name="shortcut")(x * mask)


class Attention(nn.Module):
    """Multi-head self-attention, fused QKV; inner width heads * head_dim.

    The queries', keys' and values' kernels stand side by side in one matrix; upstream
    has no bias on them and one on the output.
    """

    heads: int
    head_dim: int
    qkv_bias: bool = False

    @nn.compact
    def __call__(self, x, seen):
        B, T, D = x.shape
        inner = self.heads * self.head_dim
        qkv = Dense(3 * inner, use_bias=self.qkv_bias, name="qkv")(x)
        qkv = qkv.reshape(B, T, 3, self.heads, self.head_dim)
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # one copy, heads before time
        k = after_past(self, "keys", k, axis=2)
        v = after_past(self, "values", v, axis=2)
        logits = jnp.einsum(
            "bnth,bnsh->bnts", q, k, preferred_element_type=jnp.float32
        ) / math.sqrt(self.head_dim)
        # A softmax whose division comes last, over T x head_dim elements, not T x T:
        # with the mask added, XLA's CPU code takes half the time.
        logits += jnp.where(seen, 0.0, MASKED)[:, None]
        weights = jnp.exp(logits - lax.stop_gradient(logits.max(-1, keepdims=True)))
        out = jnp.einsum("bnts,bnsh->bnth", weights.astype(v.dtype), v)
        out = (out / weights.sum(-1, keepdims=True)).astype(v.dtype)
        return Dense(D, name="out")(out.transpose(0, 2, 1, 3).reshape(B, T, inner))


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward (exact GELU), residual.

    Args:
      x: [B, T, D]; seen: [B, T, S] bool, see `visibility`; S is T, and with a history
        (`after_past`) its frames come first.
    """

    heads: int
    head_dim: int
    feed_forward: int

    @nn.compact
    def __call__(self, x, seen):
        x = x + Attention(self.heads, self.head_dim, name="attention")(
            Norm(name="norm1")(x), seen
        )
        h = Dense(self.feed_forward, name="ff_in")(Norm(name="norm2")(x))
        h = jax.nn.gelu(h, approximate=False)
        return x + Dense(x.shape[-1], name="ff_out")(h)


class TransformerStack(nn.Module):
    """`depth` transformer blocks; see `run_layers` for `stacked`."""

    depth: int
    heads: int
    head_dim: int
    feed_forward: int
    stacked: bool = True

    @nn.compact
    def __call__(self, x, seen):
        def layer(name):
            return TransformerBlock(
                self.heads, self.head_dim, self.feed_forward, name=name
            )

        return run_layers(layer, "blocks", self.depth, self.stacked, x, seen)


def run_layers(layer, name, depth, stacked, x, *context):
    """x through `depth` equal layers, `layer(name)` being a new one.

    Stacked, they are one `nn.scan` with parameters on a leading axis: quick to compile,
    one leaf to shard. Otherwise each has a name and leaves of its own (`unstack`):
    nothing is sliced out of a stack, which at paper size costs a step of the solver a
    quarter of its time.
    """
    if not stacked:
        for i in range(depth):
            x = layer(f"{name}_{i}")(x, *context)
        return x
    layers = nn.scan(
        lambda layer, x, *context: (layer(x, *context), None),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=depth,
    )
    return layers(layer(name), x, *context)[0]


def unstack(params):
    """Parameters for `stacked=False` from stacked ones; NumPy leaves are not copied."""
    out = {}
    for key, value in params.items():
        if key in STACKED:
            depth = len(jax.tree.leaves(value)[0])
            for i in range(depth):
                out[f"{key}_{i}"] = unstack(jax.tree.map(lambda a, i=i: a[i], value))
        else:
            out[key] = unstack(value) if isinstance(value, dict) else value
    return out


def pack(params):
    """Parameters in few arrays: a call costs the host about a microsecond for each.

    Returns:
      (packed, unpack): a tuple of all vectors end to end and then the other leaves, and
      the function that gives the parameters back; under jit it costs nothing.
    """
    leaves, tree = jax.tree.flatten(params)
    vector = [leaf.ndim == 1 for leaf in leaves]
    vectors = [leaf for leaf, v in zip(leaves, vector, strict=True) if v]
    others = [leaf for leaf, v in zip(leaves, vector, strict=True) if not v]
    ends = np.cumsum([len(leaf) for leaf in vectors])[:-1]

    def unpack(packed):
        joined, *rest = packed
        parts, rest = iter(jnp.split(joined, ends)), iter(rest)
        return tree.unflatten(next(parts if v else rest) for v in vector)

    return (np.concatenate(vectors), *others), unpack
