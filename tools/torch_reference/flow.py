"""Path, loss, guidance and Euler in PyTorch; see `toktalk_jax/flow.py`."""

import torch


def interpolate(x0, x1, t):
    """The straight path (1 - t) x0 + t x1; t [B] or [B, T]."""
    t = t.reshape(*t.shape, *(1,) * (x0.ndim - t.ndim))
    return (1 - t) * x0 + t * x1


def cfm_loss(velocity, x0, x1, t, audio, style, weight):
    """Flow matching loss: mean squared error of the velocity where weight [B, T, F]."""
    error = velocity(interpolate(x0, x1, t), t, audio, style) - (x1 - x0)
    return (weight * error**2).sum() / weight.sum()


def guided(velocity, weight):
    """Classifier-free guidance, both branches in one batch of 2B; weight [B]."""

    def field(x, t, audio, style):
        twice = lambda a: torch.cat([a, a])  # noqa: E731
        with_null = lambda a: torch.cat([a, torch.zeros_like(a)])  # noqa: E731
        v = velocity(twice(x), twice(t), with_null(audio), with_null(style))
        conditional, null = v.chunk(2)
        w = weight[:, None, None]
        return (1 + w) * conditional - w * null

    return field


def time_grid(steps, kind="linear"):
    """[steps + 1] times from 0 to 1, "linear" or "cosine"."""
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    if kind == "cosine":
        t = 1 - torch.cos(torch.pi * t / 2)
    return t.float()


def euler(velocity, x0, times, known=lambda x, t: x):
    """Solve dx/dt = velocity(x, t) from x0; `known` overwrites x before each step."""
    x = x0
    for t, dt in zip(times[:-1], times.diff(), strict=True):
        x = known(x, t)
        x = x + dt * velocity(x, t)
    return x
