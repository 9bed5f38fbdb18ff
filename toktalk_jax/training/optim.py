"""Adam with global-norm clipping and a schedule; frozen paths; EMA."""

import re

import jax
import jax.numpy as jnp
import optax


def learning_rate(peak, warmup_steps, total_steps, decay):
    """Schedule: linear warm-up, then "constant" (paper) or "cosine" down to zero."""
    if decay == "constant":
        after = optax.constant_schedule(peak)
    elif decay == "cosine":
        after = optax.cosine_decay_schedule(peak, max(total_steps - warmup_steps, 1))
    else:
        raise ValueError(f"decay is {decay!r}; expected 'constant' or 'cosine'")
    warmup = optax.linear_schedule(0.0, peak, max(warmup_steps, 1))
    return optax.join_schedules([warmup, after], [warmup_steps])


def adam(schedule, clip_norm):
    """Adam (paper: 1e-4) after clipping by global norm."""
    return optax.chain(optax.clip_by_global_norm(clip_norm), optax.adam(schedule))


def freeze(optimiser, params, live, frozen):
    """Update some parameters and leave others alone, which get no optimiser state.

    Args:
      live, frozen: tuples of regexes over "a/b/c" paths, matched from the start.

    Raises:
      ValueError: a regex matches no parameter, or a parameter matches none of them, or
        both kinds.
    """
    paths = jax.tree.map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), params
    )
    names = jax.tree.leaves(paths)
    matches = lambda name, patterns: any(re.match(p, name) for p in patterns)  # noqa: E731
    for pattern in (*live, *frozen):
        if not any(re.match(pattern, name) for name in names):
            raise ValueError(f"pattern {pattern!r} matches none of {names[:5]}...")
    for name in names:
        if matches(name, live) == matches(name, frozen):
            raise ValueError(
                f"parameter {name!r} must match either a live pattern {live} or a "
                f"frozen one {frozen}"
            )
    labels = jax.tree.map(
        lambda name: "live" if matches(name, live) else "frozen", paths
    )
    return optax.multi_transform(
        {"live": optimiser, "frozen": optax.set_to_zero()}, labels
    )


def ema_update(ema, params, step, decay):
    """Exponential moving average, decay min(decay, (1 + s) / (10 + s)) at step s."""
    rate = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda e, p: rate * e + (1 - rate) * p, ema, params)
