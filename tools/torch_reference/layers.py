"""Building blocks of the twin; see `toktalk_jax/models/layers.py` for ours.

Data is [B, C, T] in convolutional modules and [B, T, C] in transformer blocks; a mask
is [B, 1, T] float, visibility [B, T, T] bool, query first.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def visibility(block_id, mask):
    """Which key frame each query frame may see: [B, T, T] bool, query first.

    Args:
      block_id: [B, T] int; mask: [B, T] bool. A query that would see nothing sees all.
    """
    seen = block_id[:, None, :] <= block_id[:, :, None]
    seen = seen & mask[:, None, :]
    return seen | ~seen.any(-1, keepdim=True)


def embed_time(t, width):
    """Sinusoidal embedding of ODE time: t [...] in [0, 1] to [..., width]."""
    half = width // 2
    table = np.exp(-np.arange(half) * (math.log(10000.0) / (half - 1))).astype("f4")
    angles = 1000.0 * t[..., None] * torch.from_numpy(table).to(t.device)
    return torch.cat([angles.sin(), angles.cos()], -1)


class CausalConv(nn.Conv1d):
    """Conv1d padded on the left only: [B, C, T] to [B, C', T]."""

    def forward(self, x):
        return super().forward(F.pad(x, (self.kernel_size[0] - 1, 0)))


class Transpose(nn.Module):
    """Swap channels and time, for a LayerNorm inside a Sequential."""

    def forward(self, x):
        return x.transpose(1, 2)


class CausalBlock(nn.Module):
    """Causal convolution (3 taps), LayerNorm, Mish; masked before and after."""

    def __init__(self, before, after):
        super().__init__()
        self.block = nn.Sequential(
            CausalConv(before, after, 3),
            Transpose(),
            nn.LayerNorm(after),
            Transpose(),
            nn.Mish(),
        )

    def forward(self, x, mask):
        return self.block(x * mask) * mask


class ResidualBlock(nn.Module):
    """Two causal blocks with the time embedding added between, plus a 1x1 shortcut.

    Args of a call:
      x: [B, C, T]; mask: [B, 1, T]; time: [B, 1 or T, E].
    """

    def __init__(self, before, after, time_width):
        super().__init__()
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(time_width, after))
        self.block1 = CausalBlock(before, after)
        self.block2 = CausalBlock(after, after)
        self.res_conv = nn.Conv1d(before, after, 1)

    def forward(self, x, mask, time):
        h = self.block1(x, mask)
        h = h + self.mlp(time).transpose(1, 2)
        h = self.block2(h, mask)
        return h + self.res_conv(x * mask)


class Downsample(nn.Module):
    """Convolution of 3 taps, stride 2, padding 1: [B, C, T] to [B, C, ceil(T / 2)]."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3, stride=2, padding=1)

    def forward(self, x):
        return self.conv(x)


class Upsample(nn.Module):
    """Transposed convolution, 4 taps, stride 2: [B, C, T] to [B, C, 2T].

    Args:
      symmetric: upstream's padding of 1, by which output 2m + 1 reads frame m + 1;
        False trims on the right instead, which is causal.
    """

    def __init__(self, width, symmetric=False):
        super().__init__()
        padding = 1 if symmetric else 0
        self.conv = nn.ConvTranspose1d(width, width, 4, stride=2, padding=padding)

    def forward(self, x):
        return self.conv(x)[..., : 2 * x.shape[-1]]


class Attention(nn.Module):
    """Multi-head self-attention; of its linears only the output has a bias."""

    def __init__(self, width, heads, head_dim):
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_k = nn.Linear(width, inner, bias=False)
        self.to_v = nn.Linear(width, inner, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(inner, width)])

    def forward(self, x, seen):
        split = lambda a: a.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # noqa: E731
        q, k, v = (split(project(x)) for project in (self.to_q, self.to_k, self.to_v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None])
        return self.to_out[0](out.transpose(1, 2).flatten(2))


class Gelu(nn.Module):
    """Linear, then the exact (erf) GELU; torch's default, but not JAX's."""

    def __init__(self, before, after):
        super().__init__()
        self.proj = nn.Linear(before, after)

    def forward(self, x):
        return F.gelu(self.proj(x))


class FeedForward(nn.Module):
    """Linear, GELU, (dropout, unused), linear."""

    def __init__(self, width, hidden):
        super().__init__()
        first, last = Gelu(width, hidden), nn.Linear(hidden, width)
        self.net = nn.Sequential(first, nn.Identity(), last)

    def forward(self, x):
        return self.net(x)


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward, residual: x [B, T, D], seen [B, T, T]."""

    def __init__(self, width, heads, head_dim, feed_forward):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, heads, head_dim)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width, feed_forward)

    def forward(self, x, seen):
        x = x + self.attn1(self.norm1(x), seen)
        return x + self.ff(self.norm3(x))
