"""The velocity field v(x_t, t, audio, style): a block-causal 1-D U-Net transformer.

Source: paper sections 3.2 and 4.1; CosyVoice-1's causal conditional decoder (two
levels, four transformer blocks a stage, twelve middle stages), made strictly
block-causal by two changes that add no parameter: blocks halve with the rate, and the
transposed convolution is right-trimmed.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from toktalk_jax.models import layers


class Stage(nn.Module):
    """A residual block and `blocks` transformer blocks at one rate."""

    features: int
    blocks: int
    heads: int
    head_dim: int
    stacked: bool

    @nn.compact
    def __call__(self, x, mask, time, seen):
        x = layers.ResidualBlock(self.features, name="residual")(x, mask, time)
        return layers.TransformerStack(
            self.blocks,
            self.heads,
            self.head_dim,
            4 * self.features,
            self.stacked,
            name="transformer",
        )(x, seen)


class VelocityField(nn.Module):
    """Velocity of the flow at motion x_t: [B, T, F] to [B, T, out_dim].

    Paper size: channels (256, 256), 82,904,888 parameters with F 56, A 512, K 256.

    Attributes:
      channels: width of each level; every level but the last halves the rate.
      blocks_per_stage: transformer blocks in each stage.
      mid_blocks: stages at the lowest rate.
      heads, head_dim: attention; the inner width is their product.
      out_dim: F.
      skip_std: 0 is the paper. Otherwise the field adds to the network the part of
        the velocity that x_t alone tells, see `linear_velocity`; no parameter more.
      stacked: whether equal layers share stacked parameters, see `layers.run_layers`.
    """

    channels: tuple[int, ...] = (256, 256)
    blocks_per_stage: int = 4
    mid_blocks: int = 12
    heads: int = 8
    head_dim: int = 64
    out_dim: int = 56
    skip_std: float = 0.0
    stacked: bool = True

    @nn.compact
    def __call__(self, x, t, audio, style, block_id=None, mask=None):
        """Evaluate the field.

        Known frames never see new ones. So a pass over the known frames with the
        collection "history" mutable leaves all that a later pass over the T frames
        after them needs, given as `{"params": ..., "history": ...}` with block_id and
        mask of both: it then returns what one pass over all would return for those T.
        A history covers a multiple of 2^(levels-1) frames and wants `stacked` False.

        Args:
          x: [B, T, F] noisy motion; audio: [B, T, A]; style: [B, T, K]. Their dtype
            and that of the parameters is what the network computes in; times stay f32.
          t: [B] ODE time in [0, 1], or [B, T], one time per frame.
          block_id: [B, T] int, non-decreasing, its borders on even frames (multiples
            of 2^(levels-1)); a frame sees no frame of a later block. None: full
            attention. With a history, its frames come first, as in mask.
          mask: [B, T] bool, valid frames; None: all.

        Returns:
          [B, T, out_dim], zero where masked.
        """
        B, T, _ = x.shape
        linear = linear_velocity(t, self.skip_std) * x if self.skip_std else 0.0
        if block_id is None:
            block_id = jnp.zeros((B, T), jnp.int32)
        if mask is None:
            mask = jnp.ones((B, T), bool)
        x = jnp.concatenate([x, audio, style], -1)
        time = self._time(t, x.shape[-1], x.dtype)
        rates = _rates(mask, block_id, time, len(self.channels), T)

        def stage(width, name):
            return Stage(
                *(width, self.blocks_per_stage, self.heads, self.head_dim),
                self.stacked,
                name=name,
            )

        skips = []
        last = len(self.channels) - 1
        for i, width in enumerate(self.channels):
            valid, moment, seen = rates[i]
            x = stage(width, f"down_{i}")(x, valid, moment, seen)
            skips.append(x)
            x = layers.Conv(
                width,
                3,
                left=2 if i == last else 1,
                right=0 if i == last else 1,
                stride=1 if i == last else 2,
                name=f"down_{i}_resample",
            )(x * valid)

        middle = lambda name: stage(self.channels[-1], name)  # noqa: E731
        x = layers.run_layers(
            middle, "mid", self.mid_blocks, self.stacked, x, *rates[-1]
        )

        for i, width in enumerate((*self.channels[-2::-1], self.channels[0])):
            valid, moment, seen = rates[last - i]
            skip = skips.pop()
            x = jnp.concatenate([x[:, : skip.shape[1]], skip], -1)
            x = stage(width, f"up_{i}")(x, valid, moment, seen)
            if i == last:
                x = layers.Conv(width, 3, left=2, name=f"up_{i}_resample")(x * valid)
            else:
                x = layers.Upsample(name=f"up_{i}_resample")(x * valid)

        valid = rates[0][0]
        x = layers.CausalBlock(self.channels[0], name="final_block")(x, valid)
        return (layers.Dense(self.out_dim, name="final")(x * valid) + linear) * valid

    def _time(self, t, width, dtype):
        """[B] or [B, T] times to [B, 1 or T, 4 * channels[0]]."""
        hidden = 4 * self.channels[0]
        time = layers.embed_time(t if t.ndim == 2 else t[:, None], width)
        time = time.astype(dtype)
        time = jax.nn.silu(layers.Dense(hidden, name="time_in")(time))
        return layers.Dense(hidden, name="time_out")(time)


def project_times(params, times, width):
    """What the network makes of times alone, for all of them at once.

    Args:
      params: of a `VelocityField` with unstacked layers; times: [n].
      width: of its input, F + A + K.

    Returns:
      The collection "times", every leaf [n, 1, D]. With entry i of each beside the
      parameters the field is that at times[i], and reads of its `t` only what
      `skip_std` does with it.
    """
    dense = lambda x, p: layers.Dense(len(p["bias"])).apply({"params": p}, x)  # noqa: E731
    time = layers.embed_time(times[:, None], width)
    time = time.astype(params["time_in"]["kernel"].dtype)
    time = dense(jax.nn.silu(dense(time, params["time_in"])), params["time_out"])
    return {
        name: {
            "residual": {"time": dense(jax.nn.mish(time), stage["residual"]["time"])}
        }
        for name, stage in params.items()
        if "residual" in stage
    }


def linear_velocity(t, std):
    """Factor c(t) of the best linear guess c x_t of the velocity, [B, 1 or T, 1].

    Time t is [B] or [B, T]. For x0 ~ N(0, 1) and x1 ~ N(0, std^2), E[x1 - x0 | x_t] is
    c x_t with c = (t std^2 - (1 - t)) / ((1 - t)^2 + t^2 std^2). `std` is what is left
    of the z-scores once the audio is known. A narrow network then need not carry the
    noise of every coefficient through its layer norms. After c_skip of Karras et al.
    (2022).
    """
    t = (t if t.ndim == 2 else t[:, None])[..., None]
    return (t * std**2 - (1 - t)) / ((1 - t) ** 2 + (t * std) ** 2)


def _rates(mask, block_id, time, levels, T):
    """(mask [B, T, 1], time, visibility [B, T, S]) per level, each at half the rate.

    mask and block_id [B, S] cover the frames of the history too, and then the T frames.
    """
    out = []
    for _ in range(levels):
        seen = layers.visibility(block_id, mask)[:, -T:]
        out.append((mask[:, -T:, None].astype(time.dtype), time, seen))
        mask, block_id, T = mask[:, ::2], block_id[:, ::2], (T + 1) // 2
        time = time[:, ::2]  # a single time [B, 1, E] stays
    return out
