"""Conditional flow matching: path, loss, condition dropout, guidance, Euler.

A velocity function here is `velocity(x, t, audio, style) -> [B, T, F]`, with
x [B, T, F], t [B] or [B, T], audio [B, T, A], style [B, T, K]; masks and blocks are
already bound.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def interpolate(x0, x1, t):
    """The straight path (1 - t) x0 + t x1 (Eq. 1); t [B] or [B, T]."""
    t = t.reshape(*t.shape, *(1,) * (x0.ndim - t.ndim))
    return (1 - t) * x0 + t * x1


def stratified_times(key, position, batch_size):
    """One time per row, together evenly spread over [0, 1): (u + i / B) mod 1.

    Args:
      position: [b] int, each row's place i in the global batch of B = `batch_size`.
    """
    u = jax.random.uniform(key)
    return (u + position / batch_size) % 1.0


def rowwise_normal(key, index, shape):
    """Standard normal [b, *shape], keyed by each row's global example index [b].

    Keyed so that any number of devices draws the same noise for the same example.
    """
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
    return jax.vmap(lambda k: jax.random.normal(k, shape))(keys)


def condition_keep(key, index, drop, style_drop):
    """Which rows keep their audio and their style: two [b] f32 arrays of 0 or 1.

    Both are dropped jointly with probability `drop` (classifier-free guidance); of the
    rest, style alone with probability `style_drop`.
    """
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
    u = jax.vmap(lambda k: jax.random.uniform(k, (2,)))(keys)
    audio = u[:, 0] >= drop
    style = audio & (u[:, 1] >= style_drop)
    return audio.astype(jnp.float32), style.astype(jnp.float32)


def cfm_loss_sums(velocity, x0, x1, t, audio, style, weight):
    """Numerator and denominator of the flow matching loss (Eq. 2).

    Given apart so that a mean over devices weighs every valid element equally.

    Args:
      weight: [B, T, F], 1 for a valid frame's live coefficient, else 0.

    Returns:
      (sum of weighted squared errors, sum of weights).
    """
    error = velocity(interpolate(x0, x1, t), t, audio, style) - (x1 - x0)
    return (weight * error**2).sum(), weight.sum()


def guided(velocity, weight):
    """Classifier-free guidance (Eq. 5): (1 + w) v(e, s) - w v(0, 0), weight w [B].

    Both branches go through the network as one batch, [B, 2] rows in a line.
    """

    def field(x, t, audio, style):
        pair = lambda a, b: jnp.stack([a, b], 1).reshape(-1, *a.shape[1:])  # noqa: E731
        null = jnp.zeros_like
        v = velocity(
            pair(x, x), pair(t, t), pair(audio, null(audio)), pair(style, null(style))
        )
        v = v.reshape(-1, 2, *v.shape[1:])
        w = weight[:, None, None]
        return (1 + w) * v[:, 0] - w * v[:, 1]

    return field


def time_grid(steps, kind="linear"):
    """[steps + 1] times from 0 to 1: the paper's even grid, or CosyVoice's cosine."""
    t = np.linspace(0, 1, steps + 1)
    if kind == "cosine":
        t = 1 - np.cos(np.pi * t / 2)
    elif kind != "linear":
        raise ValueError(f"time grid {kind!r}; expected 'linear' or 'cosine'")
    return t.astype(np.float32)


def euler(velocity, x0, times):
    """Solve dx/dt = velocity(x, t) from x0 by Euler steps (Eq. 3), as one `lax.scan`.

    Args:
      velocity: (x, t [], step []) -> dx/dt, step counting from 0.
      times: [n + 1] increasing, from 0 to 1.
    """

    def step(x, span):
        t, dt, i = span
        return x + dt * velocity(x, t, i), None

    times = jnp.asarray(times)
    spans = times[:-1], jnp.diff(times), jnp.arange(len(times) - 1)
    return lax.scan(step, x0, spans)[0]
