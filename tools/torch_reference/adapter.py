"""The adaptation layer in PyTorch; see `toktalk_jax/models/adapter.py`."""

import torch
from torch import nn

from tools.torch_reference import layers


class Adapter(nn.Module):
    """Foreign tokens [B, S, A'] to base tokens [B, S, out_dim].

    Args:
      in_dim: A'; the others as in `toktalk_jax.models.Adapter`.
    """

    def __init__(self, in_dim, out_dim, width=512, depth=4, heads=8, feed_forward=1024):
        super().__init__()
        self.width = width
        self.conv = layers.CausalConv(in_dim, width, 3)
        self.encoder = nn.ModuleList(
            layers.TransformerBlock(width, heads, width // heads, feed_forward)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, out_dim)

    def forward(self, tokens, block_id=None, mask=None):
        """Map one window; block_id [B, S] int, None: full; mask [B, S] bool."""
        B, S, _ = tokens.shape
        if block_id is None:
            block_id = torch.zeros(B, S, dtype=torch.int32, device=tokens.device)
        if mask is None:
            mask = torch.ones(B, S, dtype=torch.bool, device=tokens.device)
        valid = mask[..., None].to(tokens.dtype)
        x = self.conv((tokens * valid).transpose(1, 2)).transpose(1, 2)
        # embed_time maps 1 to 1000 radians; positions count in radians.
        positions = torch.arange(S, device=tokens.device) / 1000.0
        x = x + layers.embed_time(positions, self.width)
        seen = layers.visibility(block_id, mask)
        for block in self.encoder:
            x = block(x, seen)
        return self.out(self.norm(x)) * valid
