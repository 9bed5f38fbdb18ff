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
