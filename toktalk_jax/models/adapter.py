"""Adaptation layer: another audio LLM's token embeddings to the base space.

Source: paper sections 3.2, 3.3 and 4.1 (a 1-D convolution, positional embeddings, a
4-layer transformer encoder); causal so that it can stream.
"""

import flax.linen as nn
import jax.numpy as jnp

from toktalk_jax.models import layers


class Adapter(nn.Module):
    """Foreign tokens [B, S, A'] at 12.5 Hz to base tokens [B, S, out_dim].

    Works on one window: positions are relative to its first token, in training and
    serving alike, so that both give the same numbers.

    Attributes:
      out_dim: A, the base token width; width, depth, heads, feed_forward: the encoder.
    """

    out_dim: int
    width: int = 512
    depth: int = 4
    heads: int = 8
    feed_forward: int = 1024

    @nn.compact
    def __call__(self, tokens, block_id=None, mask=None):
        """Map one window.

        Args:
          tokens: [B, S, A'] standardised foreign embeddings.
          block_id: [B, S] int; a token sees no token of a later chunk. None: full.
          mask: [B, S] bool, valid tokens; None: all.
        """
        B, S, _ = tokens.shape
        if block_id is None:
            block_id = jnp.zeros((B, S), jnp.int32)
        if mask is None:
            mask = jnp.ones((B, S), bool)
        valid = mask[..., None].astype(tokens.dtype)
        x = layers.Conv(self.width, 3, left=2, name="conv")(tokens * valid)
        # embed_time maps 1 to 1000 radians; positions count in radians.
        positions = layers.embed_time(jnp.arange(S) / 1000.0, self.width)
        x = x + positions[None]
        x = layers.TransformerStack(
            self.depth,
            self.heads,
            self.width // self.heads,
            self.feed_forward,
            name="encoder",
        )(x, layers.visibility(block_id, mask))
        x = layers.Dense(self.out_dim, name="out")(layers.Norm(name="norm")(x))
        return x * valid


class LinearMap(nn.Module):
    """A causal linear map of three tokens, [B, S, A'] to [B, S, out_dim]: a baseline.

    Called like `Adapter`; `block_id` means nothing to it.
    """

    out_dim: int

    @nn.compact
    def __call__(self, tokens, block_id=None, mask=None):
        """Map one window; see `Adapter`."""
        if mask is not None:
            tokens = tokens * mask[..., None].astype(tokens.dtype)
        return layers.Conv(self.out_dim, 3, left=2, name="conv")(tokens)


def adapt_chunk(model, params, window, valid, chunk_tokens):
    """Base tokens [B, c, A] of a window's last chunk.

    The one place where an adapter is applied: training, offline and online alike.

    Args:
      model: `Adapter` or `LinearMap`.
      window: [B, n + c, A'] standardised foreign tokens, n of them before the chunk.
      valid: [B, n + c] bool, False before the clip began.
      chunk_tokens: c. Blocks are anchored at the end of the n tokens.
    """
    place = jnp.arange(window.shape[1]) - (window.shape[1] - chunk_tokens)
    block = jnp.broadcast_to((place // chunk_tokens)[None], valid.shape)
    base = model.apply({"params": params}, window, block, valid)
    return base[:, -chunk_tokens:]


def adapt_clip(model, params, tokens, valid, chunk_tokens, context_tokens):
    """Base tokens [B, S, A], each chunk from its own window, as a stream makes them.

    Args:
      tokens: [B, context_tokens + S, A'] standardised; S is a multiple of the chunk.
      valid: [B, context_tokens + S] bool.
    """
    B, width = len(tokens), context_tokens + chunk_tokens
    chunks = (tokens.shape[1] - context_tokens) // chunk_tokens
    index = chunk_tokens * jnp.arange(chunks)[:, None] + jnp.arange(width)[None]
    windows = tokens[:, index].reshape(B * chunks, width, tokens.shape[-1])
    seen = valid[:, index].reshape(B * chunks, width)
    base = adapt_chunk(model, params, windows, seen, chunk_tokens)
    return base.reshape(B, chunks * chunk_tokens, -1)
