"""TokTalk as a method to train: its checks, its parameters, its loss.

The loss is conditional flow matching (paper section 3.1, Eq. 2) on windows whose style
is encoded from a reference; see `methods` for what a method is.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp

from toktalk_jax import flow, models
from toktalk_jax import motion as mo

DTYPES = ("float32", "bfloat16")


def check(config):
    """Refuse a config that cannot train, naming the key.

    Raises:
      ValueError: what came, what was expected.
    """
    objective = config["train"]["objective"]
    if objective not in ("flow", "regression"):
        raise ValueError(
            f"config.train.objective is {objective!r}; expected 'flow' or 'regression'"
        )
    if config["train"]["dtype"] not in DTYPES:
        raise ValueError(
            f"config.train.dtype is {config['train']['dtype']!r}; expected one of "
            f"{DTYPES}"
        )
    unit = max(2 ** (len(config["model"]["channels"]) - 1), 2)
    for frames in config["train"]["window_frames"]:
        if frames % unit:
            raise ValueError(
                f"config.train.window_frames holds {frames}; expected multiples of "
                f"{unit} frames"
            )


def build(config, key, stats, speakers, weights):
    """(initial params, loss sums); it tells speakers apart by their style alone."""
    del speakers
    networks = models.build(config["model"], config["style"])
    params = init_params(key, *networks, len(stats.token_mean))
    sums = functools.partial(
        cfm_sums, models=networks, weights=weights, options=make_options(config)
    )
    return params, sums


def make_options(config):
    """The config's `Options`."""
    names = ("objective", "condition_drop", "style_drop", "kl_weight", "dtype")
    return Options(
        batch_size=config["batch_size"], **{k: config["train"][k] for k in names}
    )


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def init_params(key, velocity, style, token_width):
    """Random parameters {"velocity": ..., "style": ...}.

    Jitted: op by op, Flax would run the forward pass whose shapes are all it needs.
    """
    key_v, key_s = jax.random.split(key)
    motion = jnp.zeros((1, 8, mo.F))
    audio, vector = jnp.zeros((1, 8, token_width)), jnp.zeros((1, 8, style.width))
    return {
        "velocity": velocity.init(key_v, motion, jnp.zeros(1), audio, vector)["params"],
        "style": style.init(key_s, motion)["params"],
    }


def cfm_sums(params, batch, key, *, models, weights, options):
    """Loss sums of one device's part of the batch.

    Args:
      batch: see `data.pipeline`; key: the step's key.
      models: (VelocityField, StyleEncoder).
      weights: [F] weight of each coefficient, 0 where it is dead; options: `Options`.

    Returns:
      (sum of weighted squared errors + KL term, (squared-error sum, weights)).
    """
    velocity_model, style_model = models
    key_t, key_noise, key_drop, key_style = jax.random.split(key, 4)
    index = batch["index"]
    x1 = batch["motion"]
    x0 = flow.rowwise_normal(key_noise, index, x1.shape[1:])
    t = flow.stratified_times(key_t, index % options.batch_size, options.batch_size)
    if options.objective == "regression":
        # The same network as a plain regressor: its velocity at t = 0 from zero noise.
        x0, t = jnp.zeros_like(x0), jnp.zeros_like(t)
    keep_audio, keep_style = flow.condition_keep(
        key_drop, index, options.condition_drop, options.style_drop
    )
    mean, logvar = _encode_styles(style_model, params["style"], batch, key_style)
    vector = mean
    if options.kl_weight:
        vector += jnp.exp(logvar / 2) * flow.rowwise_normal(
            jax.random.fold_in(key_style, 1), index, mean.shape[1:]
        )
    audio = jnp.repeat(batch["tokens"], mo.FRAMES_PER_TOKEN, 1)
    audio = audio * keep_audio[:, None, None]
    style = jnp.broadcast_to(
        (vector * keep_style[:, None])[:, None], (*x1.shape[:2], vector.shape[-1])
    )

    def velocity(x, t, audio, style):
        low = functools.partial(jax.tree.map, lambda a: a.astype(options.dtype))
        return velocity_model.apply(
            {"params": low(params["velocity"])},
            *(low(x), t, low(audio), low(style), batch["block_id"], batch["mask"]),
        ).astype(jnp.float32)

    weight = batch["mask"][..., None] * jnp.asarray(weights, jnp.float32)[None, None]
    errors, count = flow.cfm_loss_sums(velocity, x0, x1, t, audio, style, weight)
    kl = -0.5 * (1 + logvar - mean**2 - jnp.exp(logvar)).sum(1)
    # A row's KL weighs as much as its elements, on whichever device it lies.
    kl = options.kl_weight * (kl * weight.sum((1, 2))).sum()
    return errors + kl, (errors, count)


def _encode_styles(model, params, batch, key):
    """Style (mean, log-variance) [b, K], dropout keyed by each row's global index."""

    def encode(motion, mask, index):
        mean, logvar = model.apply(
            {"params": params},
            *(motion[None], mask[None], True),
            rngs={"dropout": jax.random.fold_in(key, index)},
        )
        return mean[0], logvar[0]

    return jax.vmap(encode)(batch["style"], batch["style_mask"], batch["index"])


@flax.struct.dataclass
class Options:
    """Loss settings of the base training (plain values, hashable).

    Attributes:
      batch_size: global B. objective: "flow", or "regression" for the baseline.
      condition_drop: joint audio and style dropout; style_drop: style alone.
      kl_weight: of the style encoder.
      dtype: what the velocity field computes in; the parameters, the loss and the style
        encoder stay f32.
    """

    batch_size: int = flax.struct.field(pytree_node=False)
    objective: str = flax.struct.field(pytree_node=False, default="flow")
    condition_drop: float = flax.struct.field(pytree_node=False, default=0.2)
    style_drop: float = flax.struct.field(pytree_node=False, default=0.1)
    kl_weight: float = flax.struct.field(pytree_node=False, default=0.0)
    dtype: str = flax.struct.field(pytree_node=False, default="float32")
