"""The adapter's training step: a frozen base, another tokenizer's tokens before it.

Source: paper section 3.3, `L_CFM + lambda L_align`. The velocity distillation is ours:
what the base does with its own tokens is the target, so no face is needed.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from toktalk_jax import flow
from toktalk_jax import motion as mo
from toktalk_jax.models.adapter import adapt_clip
from toktalk_jax.training import parallel, steps

TRAINED = ("adapter",)
LIVE, FROZEN = ("adapter/",), ("velocity/", "style/")


@flax.struct.dataclass
class Options:
    """Loss settings (plain values, hashable).

    Attributes:
      batch_size: global B. flow, align, distill: weights of the three losses.
      chunk_tokens, context_tokens: of the windows that the adapter sees.
      ema_decay: limit of the EMA decay.
    """

    batch_size: int = flax.struct.field(pytree_node=False)
    flow: float = flax.struct.field(pytree_node=False, default=1.0)
    align: float = flax.struct.field(pytree_node=False, default=0.5)
    distill: float = flax.struct.field(pytree_node=False, default=0.0)
    chunk_tokens: int = flax.struct.field(pytree_node=False, default=5)
    context_tokens: int = flax.struct.field(pytree_node=False, default=25)
    ema_decay: float = flax.struct.field(pytree_node=False, default=0.999)


def losses(adapter, base, batch, key, *, models, weights, options):
    """(weighted sum of the losses, {name: loss}) of one device's part of the batch.

    The denominators are summed over the devices, so that the sum of the devices' losses
    is the loss of the global batch.

    Args:
      adapter: its params; base: {"velocity", "style"}.
      batch: `data.pipeline.batches` with `adapter_window`.
      models: (VelocityField, StyleEncoder, Adapter).
      weights: [F] weight of each coefficient, 0 where it is dead.
    """
    velocity_model, style_model, adapter_model = models
    key_t, key_noise = jax.random.split(key)
    index, x1, mask = batch["index"], batch["motion"], batch["mask"]
    adapted = adapt_clip(
        *(adapter_model, adapter, batch["foreign"], batch["foreign_mask"]),
        *(options.chunk_tokens, options.context_tokens),
    )
    inside = jnp.arange(batch["tokens"].shape[1])[None]
    inside = batch["foreign_offset"][:, None] + inside
    adapted = jnp.take_along_axis(adapted, inside[..., None], 1)
    x0 = flow.rowwise_normal(key_noise, index, x1.shape[1:])
    t = flow.stratified_times(key_t, index % options.batch_size, options.batch_size)
    vector, _ = style_model.apply(
        {"params": base["style"]}, batch["style"], batch["style_mask"]
    )
    style = jnp.broadcast_to(vector[:, None], (*x1.shape[:2], vector.shape[-1]))
    x = flow.interpolate(x0, x1, t)

    def velocity(tokens):
        audio = jnp.repeat(tokens, mo.FRAMES_PER_TOKEN, 1)
        args = (x, t, audio, style, batch["block_id"], mask)
        return velocity_model.apply({"params": base["velocity"]}, *args)

    weight = mask[..., None] * jnp.asarray(weights, jnp.float32)[None, None]
    heard = mask[:, :: mo.FRAMES_PER_TOKEN, None] * jnp.ones_like(adapted)
    found = {"align": _mean((adapted - batch["tokens"]) ** 2, heard)}
    if options.flow or options.distill:
        moved = velocity(adapted)
        found["flow"] = _mean((moved - (x1 - x0)) ** 2, weight)
    if options.distill:
        wanted = lax.stop_gradient(velocity(batch["tokens"]))
        found["distill"] = _mean((moved - wanted) ** 2, weight)
    return sum(getattr(options, name) * loss for name, loss in found.items()), found


def _mean(values, weight):
    return (weight * values).sum() / lax.psum(weight.sum(), parallel.AXIS)


def train_step(state, batch, key, *, models, optimiser, weights, options):
    """One update of the adapter: (state, batch of one device, root key) as `steps`.

    The base goes through the optimiser's mask and comes out bitwise as it was.
    """
    key = jax.random.fold_in(key, state.step)
    base = {name: state.params[name] for name in ("velocity", "style")}
    loss = functools.partial(
        losses,
        base=base,
        batch=batch,
        key=key,
        models=models,
        weights=weights,
        options=options,
    )
    with jax.named_scope("loss"):
        gradient, found = jax.grad(loss, has_aux=True)(state.params["adapter"])
    gradient, found = lax.psum((gradient, found), parallel.AXIS)
    zeros = jax.tree.map(jnp.zeros_like, base)
    loss = sum(getattr(options, name) * value for name, value in found.items())
    state, metrics = steps.advance(
        state, {"adapter": gradient, **zeros}, loss, optimiser, options.ema_decay
    )
    return state, metrics | {f"{name}_loss": value for name, value in found.items()}
