"""Training steps, devices, checkpoints: what makes a run reproducible."""

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from toktalk_jax import models
from toktalk_jax import motion as mo
from toktalk_jax.training import checkpoints, logs, optim, parallel, steps, toktalk
from toktalk_jax.training.checkpointer import Checkpointer

A = 8
NETWORKS = models.build(
    dict(channels=(16,), blocks_per_stage=1, mid_blocks=1, heads=2, head_dim=8),
    dict(width=6, hidden=16, heads=2, dropout=0.2),
)
OPTIONS = toktalk.Options(batch_size=4)
LIVE = np.ones(mo.F)
LIVE[3] = 0


def batch(step, T=20, size=4):
    rng = np.random.default_rng(step)
    mask = np.arange(T)[None] < rng.integers(10, T + 1, size)[:, None]
    return dict(
        motion=rng.normal(size=(size, T, mo.F)).astype("f4") * mask[..., None],
        tokens=rng.normal(size=(size, T // 2, A)).astype("f4"),
        mask=mask,
        style=rng.normal(size=(size, 12, mo.F)).astype("f4"),
        style_mask=np.ones((size, 12), bool),
        block_id=np.broadcast_to(np.arange(T) // 10, (size, T)).astype("i4"),
        index=(np.arange(size) + step * size).astype("i4"),
    )


@pytest.fixture(scope="module")
def optimiser():
    return optim.adam(optim.learning_rate(3e-3, 2, 100, "cosine"), 1.0)


@pytest.fixture(scope="module")
def fresh(optimiser):
    def make():
        params = toktalk.init_params(jax.random.key(0), *NETWORKS, A)
        return steps.init_state(params, optimiser)

    return make


def bound(optimiser, options=OPTIONS, **settings):
    sums = functools.partial(
        toktalk.cfm_sums, models=NETWORKS, weights=LIVE, options=options
    )
    return functools.partial(
        steps.train_step,
        **{"loss_sums": sums, "optimiser": optimiser, "ema_decay": 0.99, **settings},
    )


@pytest.fixture(scope="module")
def mapped(optimiser):
    return parallel.mapped_step(bound(optimiser))


def run(mapped, state, first, last):
    key = parallel.replicate(jax.random.key(9))
    metrics = []
    for step in range(first, last):
        state, m = mapped(state, parallel.split(batch(step)), key)
        metrics.append({k: float(v) for k, v in m.items()})
    return state, metrics


def test_two_devices_equal_one():
    """Noise, dropout and means do not know how many devices there are.

    Under SGD: Adam would blow up the rounding of gradients that are zero by symmetry.
    """
    optimiser = optax.sgd(0.1)
    options = OPTIONS.replace(kl_weight=1e-2)
    mapped = parallel.mapped_step(bound(optimiser, options))
    params = toktalk.init_params(jax.random.key(0), *NETWORKS, A)
    fresh = lambda: steps.init_state(params, optimiser)  # noqa: E731
    assert jax.local_device_count() == 2
    two, m2 = run(mapped, parallel.replicate(fresh()), 0, 3)
    one_step = jax.jit(
        jax.vmap(
            bound(optimiser, options), in_axes=(None, 0, None), axis_name=parallel.AXIS
        )
    )
    one, m1 = fresh(), []
    for step in range(3):
        b = {k: v[None] for k, v in batch(step).items()}
        one, m = one_step(one, b, jax.random.key(9))
        one = jax.tree.map(lambda x: x[0], one)
        m1.append({k: float(v[0]) for k, v in m.items()})
    for a, b in zip(m1, m2, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5)
    for a, b in zip(
        jax.tree.leaves(one.params), jax.tree.leaves(two.params), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_step_compiles_once_and_keeps_no_device_axis(fresh, optimiser):
    compiles = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: (
            compiles.append(name) if name.endswith("backend_compile_duration") else None
        )
    )
    mapped = parallel.mapped_step(bound(optimiser))
    state = parallel.replicate(fresh())
    shapes = jax.tree.map(jnp.shape, state)
    state, metrics = run(mapped, state, 0, 1)
    first = len(compiles)
    state, metrics = run(mapped, state, 1, 4)
    assert len(compiles) == first
    assert jax.tree.map(jnp.shape, state) == shapes
    assert isinstance(metrics[0]["loss"], float)


def test_micro_batches_add_up_to_the_batch(fresh):
    """Under SGD, as above: the same step, but for rounding."""
    optimiser, states = optax.sgd(0.1), []
    params = fresh().params
    for accumulation in (1, 2):
        mapped = parallel.mapped_step(bound(optimiser, accumulation=accumulation))
        state = parallel.replicate(steps.init_state(params, optimiser))
        states.append(run(mapped, state, 0, 2))
    (whole, m1), (parts, m2) = states
    np.testing.assert_allclose(m1[-1]["loss"], m2[-1]["loss"], rtol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (whole.params, parts.params)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_bf16_computes_near_f32_with_f32_weights(fresh, optimiser):
    params, key = fresh().params, jax.random.key(3)
    found = {}
    for dtype in toktalk.DTYPES:
        options = OPTIONS.replace(dtype=dtype)
        sums = functools.partial(
            toktalk.cfm_sums, models=NETWORKS, weights=LIVE, options=options
        )
        gradient, (errors, count) = jax.jit(jax.grad(sums, has_aux=True))(
            params, batch(0), key
        )
        assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(gradient))
        found[dtype] = float(errors / count), gradient
    (f32, exact), (bf16, rough) = found.values()
    assert 1e-6 < abs(bf16 / f32 - 1) < 0.02
    apart = optax.tree.norm(optax.tree.sub(exact, rough)) / optax.tree.norm(exact)
    assert float(apart) < 0.05


def test_a_step_that_is_not_finite_is_skipped_and_counted(fresh, mapped):
    def run_one(state, data):
        key = parallel.replicate(jax.random.key(9))
        state, m = mapped(state, parallel.split(data), key)
        return state, {k: float(v) for k, v in m.items()}

    state, _ = run_one(parallel.replicate(fresh()), batch(0))
    before = jax.device_get(state)
    bad = batch(1)
    bad["tokens"][2, 3] = np.inf
    for count in (1, 2):
        state, m = run_one(state, bad)
        assert not np.isfinite(m["gradient_norm"])
        assert m["skipped"] == m["in_a_row"] == count
    for name in ("params", "ema", "opt"):
        old, new = getattr(before, name), getattr(jax.device_get(state), name)
        jax.tree.map(np.testing.assert_array_equal, old, new)
    assert int(state.step) == 3
    state, m = run_one(state, batch(2))
    assert (m["skipped"], m["in_a_row"]) == (2, 0) and np.isfinite(m["loss"])


def test_overfitting_one_batch_lowers_the_loss(fresh, mapped):
    state, key = parallel.replicate(fresh()), parallel.replicate(jax.random.key(0))
    losses = []
    for _ in range(60):
        state, m = mapped(state, parallel.split(batch(0)), key)
        losses.append(float(m["loss"]))
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])


def test_dead_coefficients_and_padding_carry_no_gradient(fresh):
    params = fresh().params
    b = batch(0)
    # batch() pads with zeros; what stands there must not matter.
    loss = jax.jit(
        functools.partial(
            toktalk.cfm_sums,
            key=jax.random.key(1),
            models=NETWORKS,
            weights=LIVE,
            options=OPTIONS,
        )
    )
    total, (_, count) = loss(params, b)
    assert float(count) == b["mask"].sum() * LIVE.sum()
    junk = dict(b, motion=np.where(b["mask"][..., None], b["motion"], 9.0))
    np.testing.assert_allclose(loss(params, junk)[0], total, rtol=1e-5)


def test_regression_has_no_noise(fresh):
    options = OPTIONS.replace(
        objective="regression", condition_drop=0.0, style_drop=0.0
    )
    models_without_dropout = (NETWORKS[0], NETWORKS[1].clone(dropout=0.0))
    loss = jax.jit(
        functools.partial(
            toktalk.cfm_sums,
            models=models_without_dropout,
            weights=LIVE,
            options=options,
        )
    )
    params = fresh().params
    a = loss(params, batch(0), jax.random.key(1))[0]
    b = loss(params, batch(0), jax.random.key(2))[0]
    np.testing.assert_array_equal(a, b)


def test_ema_starts_as_a_copy_and_warms_up():
    params, ema = {"w": jnp.full(3, 2.0)}, {"w": jnp.zeros(3)}
    first = optim.ema_update(ema, params, 0, 0.9999)["w"]
    np.testing.assert_allclose(first, 0.9 * 2, rtol=1e-6)  # decay 1/10
    late = optim.ema_update(ema, params, 10**7, 0.9999)["w"]
    np.testing.assert_allclose(late, 1e-4 * 2, rtol=1e-2)


def test_schedules():
    cosine = optim.learning_rate(1.0, 10, 110, "cosine")
    np.testing.assert_allclose([cosine(5), cosine(10), cosine(60)], [0.5, 1, 0.5], 1e-5)
    assert float(cosine(110)) < 1e-6
    assert float(optim.learning_rate(1.0, 0, 10, "constant")(9)) == 1
    with pytest.raises(ValueError, match="cosine"):
        optim.learning_rate(1.0, 0, 10, "linear")


def test_frozen_paths_stay_bitwise_and_hold_no_state():
    params = {"base": {"w": jnp.ones(3)}, "adapter": {"w": jnp.ones(2)}}
    adam = optim.adam(0.1, 1.0)
    frozen = optim.freeze(adam, params, ("adapter/",), ("base/",))
    state = frozen.init(params)
    update, _ = frozen.update(params, state, params)
    np.testing.assert_array_equal(update["base"]["w"], 0)
    assert (update["adapter"]["w"] != 0).all()
    assert not any(x.shape == (3,) for x in jax.tree.leaves(state))
    with pytest.raises(ValueError, match="matches none"):
        optim.freeze(adam, params, ("adapter/",), ("bas$",))
    for live in (("base/", "adapter/"), ("adapter/w",)):
        params["new"] = {"w": jnp.ones(1)}
        with pytest.raises(ValueError, match="must match either"):
            optim.freeze(adam, params, live, ("base/",))


def test_a_resumed_run_is_bitwise_the_uninterrupted_one(fresh, mapped, tmp_path):
    whole, _ = run(mapped, parallel.replicate(fresh()), 0, 6)
    state, _ = run(mapped, parallel.replicate(fresh()), 0, 3)
    first = Checkpointer(tmp_path)
    first.save(state, 5)
    first.close()
    second = Checkpointer(tmp_path)
    state, seed = second.restore(parallel.replicate(fresh()))
    assert seed == 5 and int(state.step) == 3
    state, _ = run(mapped, state, 3, 6)
    second.close()
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)


def a_bundle():
    rng = np.random.default_rng(0)
    stats = mo.Stats(*(rng.normal(size=n).astype("f4") for n in (56, 56, A, A)))
    params = {"velocity": {"w": rng.normal(size=(3, 2)).astype("f4")}}
    return checkpoints.Bundle(
        {"method": "m"}, params, stats, None, {"corpus": "x"}, {"step": 7}
    )


def test_bundles_round_trip(tmp_path):
    bundle = a_bundle()
    checkpoints.export(bundle, tmp_path / "b")
    checkpoints.export(bundle, tmp_path / "b")  # over an old one
    again = checkpoints.load(tmp_path / "b")
    np.testing.assert_array_equal(
        again.params["velocity"]["w"], bundle.params["velocity"]["w"]
    )
    assert again.config == {"method": "m"} and again.stats.hash() == bundle.stats.hash()
    assert again.meta["hash"] == checkpoints.params_hash(bundle.params)


def test_a_missing_checkpoint_says_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="dataset.json"):
        checkpoints.load(tmp_path / "nothing")


def test_a_workdir_refuses_another_config(tmp_path):
    stats = a_bundle().stats
    config = {"train": {"learning_rate": 1e-3}, "total_steps": 5}
    checkpoints.start_workdir(tmp_path, config, stats, {}, None)
    config |= {"method": "toktalk"}  # what a run without the key is of
    checkpoints.start_workdir(tmp_path, config | {"total_steps": 9}, stats, {}, None)
    with pytest.raises(ValueError, match="on data with statistics"):
        moved = stats._replace(motion_mean=stats.motion_mean + 1)
        checkpoints.start_workdir(tmp_path, config, moved, {}, None)
    with pytest.raises(ValueError, match="tokenizer_hash None, but .* 'b'"):
        facts = {"tokenizer_hash": "b"}
        checkpoints.start_workdir(tmp_path, config, stats, facts, None)
    cosine = config | {"train": {"decay": "cosine"}}
    checkpoints.start_workdir(tmp_path / "cosine", cosine, stats, {}, None)
    with pytest.raises(ValueError, match="total_steps was 5, now 9"):
        longer = cosine | {"total_steps": 9}
        checkpoints.start_workdir(tmp_path / "cosine", longer, stats, {}, None)
    with pytest.raises(ValueError, match="method was 'toktalk', now 'faceformer'"):
        new = config | {"method": "faceformer"}
        checkpoints.start_workdir(tmp_path, new, stats, {}, None)
    other = config | {"train": {"learning_rate": 1e-4}}
    with pytest.raises(ValueError, match="train.learning_rate was 0.001, now 0.0001"):
        checkpoints.start_workdir(tmp_path, other, stats, {}, None)


def test_logs_drop_what_comes_after_the_restored_step(tmp_path):
    writer = logs.Writer(tmp_path)
    for step in (1, 2, 3):
        writer.scalars(step, {"loss": step / 2})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # a torn line
    resumed = logs.Writer(tmp_path, step=2)
    resumed.scalars(3, {"loss": np.float32(9)})
    resumed.close()
    rows = [json.loads(x) for x in (tmp_path / "metrics.jsonl").open()]
    assert [(r["step"], r["loss"]) for r in rows] == [(1, 0.5), (2, 1.0), (3, 9.0)]
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_project_of_weights_and_biases_is_written_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name, value in {"MODE": "offline", "SILENT": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    for step in (1, 2):  # the second time it goes on
        writer = logs.Writer(tmp_path, step - 1, "toktalk-test", {"a": 1})
        writer.scalars(step, {"loss": 0.5})
        writer.close()
    files = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    run = (tmp_path / "wandb_run").read_text()
    assert len(files) == 2 and all(run in path.name for path in files)
    assert b"loss" in files[0].read_bytes()


def test_a_project_without_its_library_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="config.wandb is 'faces', .* not installed"):
        logs.Writer(tmp_path, project="faces")


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="3 does not divide over 2 devices"):
        parallel.split({"x": np.zeros((3, 2))})


def test_surface_weights_follow_what_moves_the_face():
    from toktalk_jax.flame import assets
    from toktalk_jax.training.loss_weights import coefficient_weights

    head = assets.load_head()
    std = np.full(mo.F, 0.05, "f4")
    std[48:50] = 0
    stats = mo.Stats(np.zeros(mo.F, "f4"), std, np.zeros(1, "f4"), np.ones(1, "f4"))
    np.testing.assert_array_equal(coefficient_weights(stats, 0.0, head), std > 0)
    weights = coefficient_weights(stats, 0.8, head)
    assert not weights[48:50].any() and (weights[std > 0] >= 0.2 - 1e-6).all()
    np.testing.assert_allclose(weights[std > 0].mean(), 1, rtol=1e-5)
    jaw, blink = weights[50], weights[mo.ARKIT_EXPRESSION.index("eyeLookUpLeft")]
    assert jaw > 5 * blink
