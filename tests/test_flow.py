"""Path, loss, dropout, guidance and Euler against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toktalk_jax import flow

KEY = jax.random.key(0)


def test_the_path_is_straight_and_its_derivative_is_the_target():
    rng = np.random.default_rng(0)
    x0, x1 = rng.normal(size=(2, 3, 4, 5)).astype("f4")
    t = np.array([0.0, 0.25, 1.0], "f4")
    x = flow.interpolate(x0, x1, t)
    np.testing.assert_array_equal(x[0], x0[0])
    np.testing.assert_array_equal(x[2], x1[2])
    np.testing.assert_allclose(x[1], 0.75 * x0[1] + 0.25 * x1[1], rtol=1e-6)
    frames = np.array([[0.0, 1.0, 0.0, 1.0]] * 3, "f4")  # a time per frame
    mixed = flow.interpolate(x0, x1, frames)
    np.testing.assert_array_equal(mixed[:, 1], x1[:, 1])
    np.testing.assert_array_equal(mixed[:, 2], x0[:, 2])


def test_stratified_times_fill_the_interval_evenly():
    t = flow.stratified_times(KEY, np.arange(8), 8)
    gaps = np.diff(np.sort(np.asarray(t)))
    np.testing.assert_allclose(gaps, 1 / 8, atol=1e-6)
    assert (t >= 0).all() and (t < 1).all()


def test_noise_depends_on_the_example_and_not_on_its_neighbours():
    whole = flow.rowwise_normal(KEY, np.arange(6), (4, 3))
    part = flow.rowwise_normal(KEY, np.array([4, 2]), (4, 3))
    np.testing.assert_array_equal(part, whole[np.array([4, 2])])
    assert abs(float(whole.mean())) < 0.5 and 0.7 < float(whole.std()) < 1.3


def test_condition_dropout_is_joint_and_at_the_asked_rates():
    audio, style = flow.condition_keep(KEY, np.arange(20_000), 0.2, 0.1)
    assert abs(1 - audio.mean() - 0.2) < 0.01
    assert not (style > audio).any()  # no style where audio is dropped
    assert abs(1 - style.mean() - (0.2 + 0.8 * 0.1)) < 0.01


def test_loss_is_zero_for_the_true_velocity_and_ignores_masked_elements():
    rng = np.random.default_rng(0)
    x0, x1 = rng.normal(size=(2, 2, 6, 3)).astype("f4")
    weight = np.ones((2, 6, 3), "f4")
    weight[0, 4:] = 0
    t = np.array([0.2, 0.9], "f4")
    exact = lambda x, t, a, s: jnp.asarray(x1 - x0)  # noqa: E731
    errors, total = flow.cfm_loss_sums(exact, x0, x1, t, None, None, weight)
    assert float(errors) == 0 and float(total) == weight.sum()
    off = lambda x, t, a, s: jnp.asarray(x1 - x0 + 2.0)  # noqa: E731
    errors, total = flow.cfm_loss_sums(off, x0, x1, t, None, None, weight)
    np.testing.assert_allclose(errors / total, 4.0, rtol=1e-6)
    x1_junk = np.where(weight > 0, x1, 50.0)
    junk, _ = flow.cfm_loss_sums(off, x0, x1_junk, t, None, None, weight)
    zero = lambda x, t, a, s: jnp.zeros_like(x)  # noqa: E731
    a, _ = flow.cfm_loss_sums(zero, x0, x1, t, None, None, weight)
    b, _ = flow.cfm_loss_sums(zero, x0, x1_junk, t, None, None, weight)
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_guidance_is_equation_5_row_by_row():
    def velocity(x, t, audio, style):
        return x + t[:, None, None] + audio.sum(-1, keepdims=True) + 3 * style

    rng = np.random.default_rng(0)
    x, audio, style = rng.normal(size=(3, 2, 4, 1)).astype("f4")
    t, w = np.array([0.1, 0.6], "f4"), np.array([0.0, 0.3], "f4")
    got = flow.guided(velocity, w)(x, t, audio, style)
    full = velocity(x, t, audio, style)
    null = velocity(x, t, 0 * audio, 0 * style)
    want = (1 + w)[:, None, None] * full - w[:, None, None] * null
    np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_allclose(got[0], full[0], rtol=1e-6)  # w = 0 is unguided


def test_euler_on_a_field_with_a_closed_form():
    # dx/dt = -x: n Euler steps give (1 - 1/n)^n, converging to 1/e at first order.
    errors = []
    for n in (10, 20, 40):
        x = flow.euler(lambda x, t, i: -x, jnp.ones(()), flow.time_grid(n))
        np.testing.assert_allclose(x, (1 - 1 / n) ** n, rtol=1e-5)
        errors.append(abs(float(x) - np.exp(-1)))
    assert 1.8 < errors[0] / errors[1] < 2.2 and 1.8 < errors[1] / errors[2] < 2.2
    # A straight flow is exact in one step.
    x = flow.euler(lambda x, t, i: jnp.full(3, 2.0), jnp.zeros(3), flow.time_grid(1))
    np.testing.assert_allclose(x, 2.0)


def test_the_field_is_told_the_time_and_the_step():
    seen = []

    def velocity(x, t, i):
        jax.debug.callback(lambda *v: seen.append(v), t, i, ordered=True)
        return jnp.ones_like(x)

    x = flow.euler(velocity, jnp.zeros(2), np.array([0, 0.1, 0.4, 1], "f4"))
    jax.effects_barrier()
    np.testing.assert_allclose(x, 1.0)
    np.testing.assert_allclose(seen, [(0, 0), (0.1, 1), (0.4, 2)], rtol=1e-6)


def test_time_grids():
    np.testing.assert_allclose(flow.time_grid(4), [0, 0.25, 0.5, 0.75, 1])
    cosine = flow.time_grid(10, "cosine")
    np.testing.assert_allclose(cosine[[1, 5]], [0.0123, 0.2929], atol=1e-4)
    with pytest.raises(ValueError, match="linear"):
        flow.time_grid(4, "sigmoid")
