"""The velocity field in PyTorch, with upstream's parameter names.

`toktalk_jax/models/velocity.py` is the same network; CosyVoice's causal conditional
decoder has the same parameters. The two changes that make it strictly block-causal are
undone by `upstream_alignment=True`, to show what they are for.
"""

import torch
from torch import nn

from tools.torch_reference import layers


class VelocityField(nn.Module):
    """Velocity of the flow at motion x_t: [B, T, F] to [B, T, out_dim].

    Args:
      in_dim: F + A + K, even.
      channels, blocks_per_stage, mid_blocks, heads, head_dim, out_dim, skip_std: as in
        `toktalk_jax.models.VelocityField`.
      upstream_alignment: pad the transposed convolution symmetrically and give every
        level the block size of the full rate, as upstream; frames then see past their
        block.
    """

    def __init__(
        self,
        in_dim,
        channels=(256, 256),
        blocks_per_stage=4,
        mid_blocks=12,
        heads=8,
        head_dim=64,
        out_dim=56,
        skip_std=0.0,
        upstream_alignment=False,
    ):
        super().__init__()
        self.in_dim, self.levels = in_dim, len(channels)
        self.skip_std, self.upstream_alignment = skip_std, upstream_alignment
        hidden, last = 4 * channels[0], len(channels) - 1

        def stage(before, width, *resample):
            block = lambda: layers.TransformerBlock(  # noqa: E731
                width, heads, head_dim, 4 * width
            )
            residual = layers.ResidualBlock(before, width, hidden)
            blocks = nn.ModuleList(block() for _ in range(blocks_per_stage))
            return nn.ModuleList([residual, blocks, *resample])

        self.time_mlp = TimeEmbedding(in_dim, hidden)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        for i, (before, width) in enumerate(
            zip((in_dim, *channels), channels, strict=False)
        ):
            end = layers.CausalConv(width, width, 3) if i == last else None
            resample = end or layers.Downsample(width)
            self.down_blocks.append(stage(before, width, resample))
        self.mid_blocks = nn.ModuleList(
            stage(channels[-1], channels[-1]) for _ in range(mid_blocks)
        )
        up = (*channels[::-1], channels[0])
        for i, (before, width) in enumerate(zip(up, up[1:], strict=False)):
            end = layers.CausalConv(width, width, 3) if i == last else None
            resample = end or layers.Upsample(width, symmetric=upstream_alignment)
            self.up_blocks.append(stage(2 * before, width, resample))
        self.final_block = layers.CausalBlock(channels[0], channels[0])
        self.final_proj = nn.Conv1d(channels[0], out_dim, 1)
        self.apply(initialise)

    def forward(self, x, t, audio, style, block_id=None, mask=None):
        """Evaluate the field.

        Args:
          x: [B, T, F]; audio: [B, T, A]; style: [B, T, K]; t: [B] or [B, T].
          block_id: [B, T] int, None: full attention; mask: [B, T] bool, None: all.
        """
        B, T, _ = x.shape
        if block_id is None:
            block_id = torch.zeros(B, T, dtype=torch.int32, device=x.device)
        if mask is None:
            mask = torch.ones(B, T, dtype=torch.bool, device=x.device)
        t = t if t.ndim == 2 else t[:, None]
        linear = linear_velocity(t, self.skip_std) * x if self.skip_std else None
        time = self.time_mlp(layers.embed_time(t, self.in_dim))
        rates = self._rates(mask, block_id, time)

        x = torch.cat([x, audio, style], -1).transpose(1, 2)
        skips = []
        for blocks, rate in zip(self.down_blocks, rates, strict=True):
            x = run_stage(blocks, x, *rate)
            skips.append(x)
            x = blocks[2](x * rate[0])
        for blocks in self.mid_blocks:
            x = run_stage(blocks, x, *rates[-1])
        for blocks, rate in zip(self.up_blocks, rates[::-1], strict=True):
            skip = skips.pop()
            x = torch.cat([x[..., : skip.shape[-1]], skip], 1)
            x = run_stage(blocks, x, *rate)
            x = blocks[2](x * rate[0])

        valid = rates[0][0]
        x = self.final_proj(self.final_block(x, valid) * valid).transpose(1, 2)
        if linear is not None:
            x = x + linear
        return x * valid.transpose(1, 2)

    def _rates(self, mask, block_id, time):
        """(mask [B, 1, T], time, visibility) per level; each takes every 2nd frame."""
        out = []
        for _ in range(self.levels):
            seen = layers.visibility(block_id, mask)
            out.append((mask[:, None].to(time.dtype), time, seen))
            mask, time = mask[:, ::2], time[:, ::2]
            if self.upstream_alignment:
                block_id = block_id[:, : mask.shape[1]]  # as many frames to a block
            else:
                block_id = block_id[:, ::2]
        return out


def run_stage(blocks, x, mask, time, seen):
    """A residual block and the transformer blocks of one stage: x [B, C, T]."""
    x = blocks[0](x, mask, time).transpose(1, 2)
    for block in blocks[1]:
        x = block(x, seen)
    return x.transpose(1, 2)


class TimeEmbedding(nn.Module):
    """Linear, SiLU, linear: [..., before] to [..., hidden]."""

    def __init__(self, before, hidden):
        super().__init__()
        self.linear_1 = nn.Linear(before, hidden)
        self.linear_2 = nn.Linear(hidden, hidden)

    def forward(self, x):
        return self.linear_2(nn.functional.silu(self.linear_1(x)))


def linear_velocity(t, std):
    """Factor of x_t in E[x1 - x0 | x_t], t [B, 1 or T] to [B, 1 or T, 1]."""
    t = t[..., None]
    return (t * std**2 - (1 - t)) / ((1 - t) ** 2 + (t * std) ** 2)


def initialise(module):
    """Upstream's: kaiming_normal(relu) and zero bias for Conv1d and Linear only."""
    if isinstance(module, (nn.Conv1d, nn.Linear)):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
