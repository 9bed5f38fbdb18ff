"""The style encoder in PyTorch; see `toktalk_jax/models/style.py`.

Clean-room from the published description; the transformer layer is torch's own.
"""

import torch
import torch.nn.functional as F
from torch import nn


class StyleEncoder(nn.Module):
    """Reference motion [B, R, F] to (mean, log-variance), each [B, width].

    Args:
      in_dim: F; width, hidden, heads, dropout: as in `toktalk_jax.models.StyleEncoder`.
    """

    def __init__(self, in_dim, width=256, hidden=512, heads=8, dropout=0.2):
        super().__init__()
        self.dropout = dropout
        widths = (in_dim, hidden, hidden, 2 * width, 2 * width)
        self.convs = nn.ModuleList(
            nn.Conv1d(a, b, 3, padding=1)
            for a, b in zip(widths, widths[1:], strict=False)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(w) for w in widths[1:4])
        self.layer = nn.TransformerEncoderLayer(
            hidden, heads, hidden, dropout=0.0, activation="gelu", batch_first=True
        )

    def forward(self, motion, mask=None):
        """Encode motion [B, R, F], valid where mask [B, R] is True (None: all)."""
        if mask is None:
            mask = torch.ones(motion.shape[:2], dtype=torch.bool, device=motion.device)
        valid = mask[..., None].to(motion.dtype)
        x = self._convolve(motion, valid, 0, self.dropout)
        x = self._convolve(x, valid, 1, self.dropout)
        # A row with no valid frame sees all of them, or its softmax would be NaN.
        hidden = ~mask & mask.any(-1, keepdim=True)
        x = self.layer(x, src_key_padding_mask=hidden)
        x = self._convolve(x, valid, 2, self.dropout / 2)
        x = self.convs[3]((x * valid).transpose(1, 2)).transpose(1, 2)
        x = (x * valid).sum(1) / valid.sum(1).clamp(min=1.0)
        return x.chunk(2, -1)

    def _convolve(self, x, valid, i, dropout):
        x = self.convs[i]((x * valid).transpose(1, 2)).transpose(1, 2)
        return self.norms[i](F.elu(F.dropout(x, dropout, self.training)))
