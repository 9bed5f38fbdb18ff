"""Style encoder: a reference motion clip to a style vector.

Clean-room from the published description of MSMD's encoder (paper section 3.2; two
convolutions, one transformer layer, two convolutions, mean over time). Its constant
positional vector is left out: it carries no position.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from toktalk_jax.models import layers


class StyleEncoder(nn.Module):
    """Reference motion [B, R, F] to (mean, log-variance), each [B, width].

    The mean is used at inference. R is any length from 0.4 s (10 frames) up. At width
    256 and hidden 512: 4,028,416 parameters.

    Attributes:
      width: K; hidden: width of the convolutions and of the transformer layer.
      dropout: rate in the first two convolutions; half of it in the third.
    """

    width: int = 256
    hidden: int = 512
    heads: int = 8
    dropout: float = 0.2

    @nn.compact
    def __call__(self, motion, mask=None, train=False):
        """Encode.

        Args:
          motion: [B, R, F] normalised; mask: [B, R] bool, valid frames, None: all.
          train: dropout on (needs the "dropout" rng).
        """
        if mask is None:
            mask = jnp.ones(motion.shape[:2], bool)
        valid = mask[..., None].astype(motion.dtype)
        seen = layers.visibility(jnp.zeros(mask.shape, jnp.int32), mask)

        def convolve(x, features, name, dropout):
            x = layers.Conv(features, 3, left=1, right=1, name=name)(x * valid)
            x = nn.Dropout(dropout, deterministic=not train)(x)
            return layers.Norm(name=f"{name}_norm")(jax.nn.elu(x))

        x = convolve(motion, self.hidden, "conv_0", self.dropout)
        x = convolve(x, self.hidden, "conv_1", self.dropout)
        x = self._transformer(x, seen)
        x = convolve(x, 2 * self.width, "conv_2", self.dropout / 2)
        x = layers.Conv(2 * self.width, 3, left=1, right=1, name="conv_3")(x * valid)
        x = (x * valid).sum(1) / jnp.maximum(valid.sum(1), 1.0)
        return x[:, : self.width], x[:, self.width :]

    def _transformer(self, x, seen):
        """One post-norm transformer layer, feed-forward as wide as the model."""
        head_dim = self.hidden // self.heads
        attention = layers.Attention(
            self.heads, head_dim, qkv_bias=True, name="attention"
        )
        x = layers.Norm(name="norm1")(x + attention(x, seen))
        h = layers.Dense(self.hidden, name="ff_in")(x)
        h = layers.Dense(self.hidden, name="ff_out")(jax.nn.gelu(h, approximate=False))
        return layers.Norm(name="norm2")(x + h)
