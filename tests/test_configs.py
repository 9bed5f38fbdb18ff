"""Every config and every sweep point builds; mistakes name their key."""

import importlib
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from toktalk_jax import models, train
from toktalk_jax import motion as mo
from toktalk_jax.methods import METHODS
from toktalk_jax.streaming import Sampler
from toktalk_jax.tokenizers import load
from toktalk_jax.training import steps

NAMES = ("base", "small", "faceformer", "hdtf_tfhp", "ravdess")


def adapter_arguments():
    from configs import adapter

    sizes = [choice for choice in adapter.CHOICES if "=" not in choice]
    named = [f"tokens={name}" for name in load.NAMES]
    return ["", *sizes, *named, f"tokens=whisper,{','.join(sizes)}"]


def arguments(name):
    """Every argument alone, and all together that may stand together."""
    choices = importlib.import_module(f"configs.{name}").CHOICES
    other = [c for c in choices if c not in base.HARDWARE and "=" not in c]
    return ["", *choices, ",".join(other)]


POINTS = [(name, arg) for name in NAMES for arg in arguments(name)] + [("grid", "")]
TRACED = {}


def shapes_of(config):
    """Trace parameters and one training step without allocating anything.

    Once for configs that differ in their data alone.
    """
    kept = ("method", "model", "style", "train")
    key = str([config[name] for name in kept if name in config])
    if key not in TRACED:
        TRACED[key] = trace(config)
    return TRACED[key]


def trace(config):
    key, width = jax.random.key(0), 512
    stats = mo.Stats(*(np.ones(n, "f4") for n in (mo.F, mo.F, width, width)))
    optimiser = train.make_optimiser(config)

    def one_step():
        params, loss_sums = METHODS[config.method].build(
            config.to_dict(), key, stats, ["a", "b"], np.ones(mo.F)
        )
        state = steps.init_state(params, optimiser)
        B, T = 2, max(config.train.window_frames)
        R = max(config.train.style_frames)
        batch = dict(
            motion=jnp.zeros((B, T, mo.F)),
            tokens=jnp.zeros((B, T // 2, width)),
            mask=jnp.ones((B, T), bool),
            style=jnp.zeros((B, R, mo.F)),
            style_mask=jnp.ones((B, R), bool),
            block_id=jnp.zeros((B, T), jnp.int32),
            index=jnp.arange(B),
            speaker=jnp.arange(B),
        )
        return state, loss_sums(state.params, batch, key)[0]

    return jax.eval_shape(one_step)


@pytest.mark.parametrize(("name", "arg"), POINTS, ids=str)
def test_every_config_builds(name, arg):
    config = importlib.import_module(f"configs.{name}").get_config(arg)
    if "=" in arg:
        assert config.tokenizer == arg.partition("=")[2]
        assert config.dataset.endswith(config.tokenizer)
    config.dataset = "somewhere"
    train.check_config(config)
    state, loss = shapes_of(config)
    assert loss.shape == ()
    if (name, arg) == ("base", ""):
        count = sum(x.size for x in jax.tree.leaves(state.params["velocity"]))
        assert count == 82_904_888
    if (name, arg) == ("faceformer", ""):
        assert sum(x.size for x in jax.tree.leaves(state.params)) < 3e5


@pytest.mark.parametrize("arg", adapter_arguments())
def test_every_adapter_config_builds(arg):
    """Traced with its step, before a base of its own kind."""
    from toktalk_jax import adapt
    from toktalk_jax.training import adapter_steps, checkpoints

    config = importlib.import_module("configs.adapter").get_config(arg)
    config.dataset = "somewhere"
    base = checkpoints.load("small")
    adapt.check_config(config, base)
    assert config.tokens == arg.partition("tokens=")[2].partition(",")[0]
    network = models.build_adapter(config.adapter.to_dict(), 512)
    networks = models.build(base.config["model"], base.config["style"])
    B, T, n = 2, max(config.train.window_frames), config.adapter.context_tokens

    def loss():
        foreign = jnp.zeros((B, n + T // 2 + 5, 96))
        params = network.init(jax.random.key(0), foreign)["params"]
        batch = dict(
            motion=jnp.zeros((B, T, mo.F)),
            tokens=jnp.zeros((B, T // 2, 512)),
            foreign=foreign,
            foreign_mask=jnp.ones(foreign.shape[:2], bool),
            foreign_offset=jnp.zeros(B, jnp.int32),
            mask=jnp.ones((B, T), bool),
            style=jnp.zeros((B, 50, mo.F)),
            style_mask=jnp.ones((B, 50), bool),
            block_id=jnp.zeros((B, T), jnp.int32),
            index=jnp.arange(B),
        )
        return params, jax.vmap(
            lambda b: adapter_steps.losses(
                params,
                base.params,
                b,
                jax.random.key(0),
                models=(*networks, network),
                weights=np.ones(mo.F),
                options=adapt._options(config, 5),
            ),
            axis_name="batch",
        )(jax.tree.map(lambda x: x[None], batch))

    params, (total, _) = jax.eval_shape(loss)
    assert total.shape == (1,)
    size = sum(x.size for x in jax.tree.leaves(params))
    assert size < 3e5 if "paper" not in arg else size > 5e6 or "smoke" in arg


@pytest.mark.parametrize(
    ("name", "arg", "message"),
    [
        ("adapter", "tokens=lyra,tokens=whisper", "give one tokens=NAME"),
        ("ravdess", "features=lyra,features=mimi", "give one features=NAME"),
        ("base", "l40s,h100", r"\['h100', 'l40s'\]; give one hardware"),
    ],
)
def test_arguments_that_exclude_each_other(name, arg, message):
    with pytest.raises(ValueError, match=message):
        importlib.import_module(f"configs.{name}").get_config(arg)


def test_hardware_keeps_the_global_batch_and_f32_weights():
    sizes = set()
    for name in base.HARDWARE:
        config = base.get_config(name)
        sizes.add(config.batch_size)
        assert config.train.dtype == "bfloat16"
        state, _ = shapes_of(config)
        assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(state.params))
    assert len(sizes) == 1


@pytest.mark.parametrize("name", ["depth", "width", "align", "losses", "minutes"])
def test_every_adapter_sweep_point_names_real_keys(name):
    from configs import adapter
    from toktalk_jax import adapt
    from toktalk_jax.training import checkpoints

    points = list(getattr(adapter, f"sweep_{name}")())
    assert len(points) >= 3
    for overrides in points:
        config = adapter.get_config()
        config.dataset = "somewhere"
        config.lock()
        config.update_from_flattened_dict(overrides)
        adapt.check_config(config, checkpoints.load("small"))


def sweep_points():
    for name in NAMES:
        module = importlib.import_module(f"configs.{name}")
        for key, function in inspect.getmembers(module, inspect.isfunction):
            if key.startswith("sweep_"):
                for i, overrides in enumerate(function()):
                    yield pytest.param(name, overrides, id=f"{name}-{key}-{i}")


@pytest.mark.parametrize(("name", "overrides"), list(sweep_points()))
def test_every_sweep_point_names_real_keys_and_can_run(name, overrides):
    """A sampler of TokTalk; of a baseline, whose sweeps train anew, a training step."""
    config = importlib.import_module(f"configs.{name}").get_config()
    config.lock()
    config.update_from_flattened_dict(overrides)
    if config.dataset:  # a corpus, whose sweeps train anew
        train.check_config(config)
    if config.method != "toktalk":
        METHODS[config.method].check(config.to_dict())
        assert shapes_of(config)[1].shape == ()
        return
    sample = config.sample.to_dict()
    chunk = mo.chunk_frames(sample.pop("chunk_seconds"))
    network, _ = models.build(config.model.to_dict(), config.style.to_dict())
    zeros = mo.Stats(*(np.zeros(n, "f4") for n in (56, 56, 4, 4)))
    # Of the weights a sampler reads only the sizes of the first layer.
    conv = {"kernel": np.zeros((3, 64, 8), "f4"), "bias": np.zeros(8, "f4")}
    weights = {"down_0": {"residual": {"block1": {"conv": conv}}}}
    sampler = Sampler(network, weights, zeros, chunk_frames=chunk, **sample)
    assert len(sampler.times) == sample["num_steps"] + 1


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_argument_names_the_choices(name):
    module = importlib.import_module(f"configs.{name}")
    with pytest.raises(ValueError, match="'smok'.*smoke"):
        module.get_config("smok")


def test_an_unknown_key_is_refused():
    from configs import small

    config = small.get_config()
    config.lock()
    with pytest.raises((KeyError, AttributeError), match="learning_rat"):
        config.train.learning_rat = 1.0


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("dataset", "", "config.dataset is empty"),
        ("batch_size", 3, "config.batch_size is 3"),
        ("train.objective", "flw", "config.train.objective is 'flw'"),
        ("train.window_frames", (61,), "config.train.window_frames holds 61"),
        (
            "method",
            "toktok",
            r"config.method is 'toktok'; .* \('toktalk', 'faceformer'",
        ),
    ],
)
def test_a_config_that_cannot_train_names_its_key(key, value, message):
    from configs import small

    config = small.get_config()
    config.dataset = "somewhere"
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=message):
        train.check_config(config)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.width", 60, "config.model.width is 60"),
        ("model.after", -1, "config.model.after is -1"),
    ],
)
def test_a_faceformer_that_cannot_be_built_names_its_key(key, value, message):
    from configs import faceformer

    config = faceformer.get_config()
    config.dataset = "somewhere"
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=message):
        train.check_config(config)
