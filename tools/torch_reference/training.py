"""Loss and update of the base training in PyTorch; see `toktalk_jax/training/`."""

import torch

from toktalk_jax import motion as mo
from tools.torch_reference import flow


def batch_loss(velocity, style, batch, x0, t):
    """Flow matching loss of one batch, the style encoder inside; nothing is dropped.

    Args:
      velocity, style: `VelocityField` and `StyleEncoder`.
      batch: motion [B, T, F], tokens [B, T / 2, A], mask [B, T], block_id [B, T],
        style [B, R, F], style_mask [B, R].
      x0: [B, T, F] noise; t: [B].
    """
    x1 = batch["motion"]
    vector, _ = style(batch["style"], batch["style_mask"])
    styles = vector[:, None].expand(-1, x1.shape[1], -1)
    audio = batch["tokens"].repeat_interleave(mo.FRAMES_PER_TOKEN, 1)
    weight = batch["mask"][..., None].to(x1.dtype).expand_as(x1)

    def bound(x, t, audio, style):
        return velocity(x, t, audio, style, batch["block_id"], batch["mask"])

    return flow.cfm_loss(bound, x0, x1, t, audio, styles, weight)


def adam(parameters, rate):
    """Adam as the paper's (rate 1e-4)."""
    return torch.optim.Adam(parameters, lr=rate)


def train_step(loss, parameters, optimiser, clip_norm):
    """One update after clipping by global norm; `loss` () -> scalar. Returns it."""
    optimiser.zero_grad()
    value = loss()
    value.backward()
    torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
    optimiser.step()
    return value.detach()
