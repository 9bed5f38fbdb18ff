"""The training step, a free function of (state, batch, key), for any method's loss.

A step sums its loss and gradients over the pmap axis, so every valid element of the
global batch weighs the same whatever the number of devices and micro-batches.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import lax

from toktalk_jax.training import optim, parallel


@flax.struct.dataclass
class TrainState:
    """What a run carries from step to step.

    Attributes:
      step: []; params: the method's, f32.
      ema: their average, of those parts (top-level names) that are trained.
      opt: of the optimiser.
      skipped: [] steps without an update so far, see `advance`; in_a_row: of these, how
        many the last steps were.
    """

    step: jax.Array
    params: dict
    ema: dict
    opt: optax.OptState
    skipped: jax.Array
    in_a_row: jax.Array


@functools.partial(jax.jit, static_argnums=(1, 2))
def init_state(params, optimiser, trained=None):
    """Step 0; the EMA starts as a copy of the parameters.

    Args:
      trained: names of the parts that are trained; None: all of them.
    """
    trained = params.keys() if trained is None else trained
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema={name: jax.tree.map(jnp.copy, params[name]) for name in trained},
        opt=optimiser.init(params),
        skipped=jnp.zeros((), jnp.int32),
        in_a_row=jnp.zeros((), jnp.int32),
    )


def train_step(state, batch, key, *, loss_sums, optimiser, ema_decay, accumulation=1):
    """One update: (state, batch of one device, root key) -> (state, metrics).

    Runs under pmap with axis name `parallel.AXIS`. The root key is folded with the
    step, and noise with each row's global index: nothing random is carried.

    Args:
      loss_sums: (params, batch, key) -> (what is minimised, (errors, count)), each a
        sum over this device's part of the batch; the loss is errors / count.
      ema_decay: limit of the EMA decay.
      accumulation: micro-batches, one after the other, whose gradients are added: the
        same step in less memory.
    """
    key = jax.random.fold_in(key, state.step)

    def sums(rows):
        with jax.named_scope("loss"):
            loss = functools.partial(loss_sums, batch=rows, key=key)
            return jax.grad(loss, has_aux=True)(state.params)

    found = _added(sums, batch, accumulation)
    gradient, (errors, count) = lax.psum(found, parallel.AXIS)
    gradient = jax.tree.map(lambda g: g / count, gradient)
    return advance(state, gradient, errors / count, optimiser, ema_decay)


def _added(sums, batch, accumulation):
    """`sums` of a batch, in so many parts."""
    if accumulation == 1:
        return sums(batch)
    parts = jax.tree.map(
        lambda x: x.reshape(accumulation, len(x) // accumulation, *x.shape[1:]), batch
    )
    zero = jax.tree.map(
        lambda s: jnp.zeros(s.shape, s.dtype),
        jax.eval_shape(sums, jax.tree.map(lambda x: x[0], parts)),
    )
    add = lambda total, rows: (jax.tree.map(jnp.add, total, sums(rows)), None)  # noqa: E731
    return lax.scan(add, zero, parts)[0]


def advance(state, gradient, loss, optimiser, ema_decay):
    """The state after a step, and its metrics.

    Where loss or gradient is not finite, parameters, EMA and optimiser stay as they
    were: the step is skipped, and counted.
    """
    with jax.named_scope("optimiser"):
        norm = optax.tree.norm(gradient)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        update, opt = optimiser.update(gradient, state.opt, state.params)
        # What is trained has an average; the rest, a frozen base, is not touched.
        trained = {name: state.params[name] for name in state.ema}
        update = {name: update[name] for name in state.ema}
        params = optax.apply_updates(trained, update)
        ema = optim.ema_update(state.ema, params, state.step, ema_decay)
        keep = functools.partial(
            jax.tree.map, lambda new, old: jnp.where(finite, new, old)
        )
        params = keep(params, trained)
        skips = 1 - finite.astype(jnp.int32)
        size, change = optax.tree.norm(params), optax.tree.norm(update)
    state = TrainState(
        step=state.step + 1,
        params={**state.params, **params},
        ema=keep(ema, state.ema),
        opt=keep(opt, state.opt),
        skipped=state.skipped + skips,
        in_a_row=(state.in_a_row + 1) * skips,
    )
    metrics = {
        "loss": loss,
        "gradient_norm": norm,
        "parameter_norm": size,
        "update_ratio": change / size,
        "skipped": state.skipped,
        "in_a_row": state.in_a_row,
    }
    return state, metrics
