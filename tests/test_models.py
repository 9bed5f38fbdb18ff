"""The networks: sizes, strict block causality, masks, time per row and per frame."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toktalk_jax import models
from toktalk_jax.models import layers, velocity

TINY = dict(blocks_per_stage=1, mid_blocks=2, heads=2, head_dim=8, out_dim=56)


def count(model, *shapes):
    arguments = [jnp.zeros(s) for s in shapes]
    tree = jax.eval_shape(lambda: model.init(jax.random.key(0), *arguments))
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def test_paper_size_has_exactly_the_published_parameters():
    shapes = [(1, 4, 56), (1,), (1, 4, 512), (1, 4, 256)]
    assert count(models.VelocityField(), *shapes) == 82_904_888
    assert count(models.StyleEncoder(), (1, 10, 56)) == 4_028_416


def test_other_sizes_match_the_counts_read_off_upstream():
    # network-facts 1.8: 80 + 80 + 80 + 80 channels, CosyVoice 1 and 2.
    shapes = [(1, 4, 80), (1,), (1, 4, 80), (1, 4, 160)]
    one = models.VelocityField(channels=(256, 256), out_dim=80)
    two = models.VelocityField(channels=(256,), out_dim=80)
    assert count(one, *shapes) == 81_878_864
    assert count(two, *shapes) == 71_302_480


@pytest.fixture(scope="module", params=[(16, 16), (16,), (16, 16, 16)], ids=str)
def field(request):
    model = models.VelocityField(channels=request.param, **TINY)
    shapes = [(1, 8, 56), (1,), (1, 8, 12), (1, 8, 6)]
    zeros = [jnp.zeros(s) for s in shapes]
    params = jax.jit(model.init)(jax.random.key(0), *zeros)
    return model, params, jax.jit(model.apply)


def inputs(B, T, seed=0):
    rng = np.random.default_rng(seed)
    x, audio, style = (rng.normal(size=(B, T, w)).astype("f4") for w in (56, 12, 6))
    return x, rng.uniform(size=B).astype("f4"), audio, style


def test_unstacked_layers_compute_the_same_from_the_same_numbers(field):
    model, params, apply = field
    apart = layers.unstack(params["params"])
    assert {"mid_0", "mid_1"} < {*apart} and "mid" not in apart
    size = lambda tree: sum(a.size for a in jax.tree.leaves(tree))  # noqa: E731
    assert size(apart) == size(params)
    out = model.clone(stacked=False).apply({"params": apart}, *inputs(2, 8))
    whole = apply(params, *inputs(2, 8))
    np.testing.assert_allclose(out, whole, atol=1e-5)
    assert np.abs(whole).max() > 0.1


def test_no_frame_sees_a_later_block_bitwise(field):
    model, params, apply = field
    unit = 2 ** (len(model.channels) - 1)
    T = 40
    x, t, audio, style = inputs(1, T)
    rng = np.random.default_rng(1)
    for _ in range(4):  # random layouts with borders on whole units
        borders = rng.choice(np.arange(1, T // unit), size=3, replace=False) * unit
        block = np.searchsorted(np.sort(borders), np.arange(T), side="right")[None]
        base = apply(params, x, t, audio, style, block)
        for b in np.sort(borders):
            x2, audio2 = x.copy(), audio.copy()
            x2[:, b:] += 1
            audio2[:, b:] -= 2
            out = apply(params, x2, t, audio2, style, block)
            np.testing.assert_array_equal(out[:, :b], base[:, :b])
            assert (np.abs(out - base)[:, b:].max(-1) > 0).any()


def test_every_frame_sees_its_whole_block_and_the_past(field):
    _, params, apply = field
    x, t, audio, style = inputs(1, 24)
    block = (np.arange(24) // 8)[None]
    base = apply(params, x, t, audio, style, block)
    for frame in (0, 7, 9, 15):
        audio2 = audio.copy()
        audio2[:, frame] += 1
        moved = np.abs(apply(params, x, t, audio2, style, block) - base)[0].max(-1) > 0
        assert moved[frame // 8 * 8 :].all()


def test_padding_changes_no_valid_frame(field):
    _, params, apply = field
    x, t, audio, style = inputs(2, 24)
    block = np.broadcast_to(np.arange(24) // 8, (2, 24))
    mask = np.arange(24)[None] < np.array([[16], [10]])
    base = apply(params, x, t, audio, style, block, mask)
    junk = np.where(mask[..., None], 0, 7.0).astype("f4")
    out = apply(params, x + junk, t, audio - junk, style + junk, block, mask)
    np.testing.assert_array_equal(out, base)
    np.testing.assert_array_equal(np.asarray(base)[~mask], 0)


def test_a_constant_time_per_frame_is_a_time_per_row(field):
    _, params, apply = field
    x, t, audio, style = inputs(2, 16)
    per_row = apply(params, x, t, audio, style)
    per_frame = apply(params, x, np.repeat(t[:, None], 16, 1), audio, style)
    np.testing.assert_allclose(per_frame, per_row, atol=2e-5)
    late = np.repeat(t[:, None], 16, 1)
    late[:, 8:] = 1.0
    assert np.abs(apply(params, x, late, audio, style) - per_row).max() > 1e-3


def test_the_linear_velocity_is_the_best_linear_guess():
    """Against least squares on samples of the path, and exact at both ends."""
    rng = np.random.default_rng(0)
    x0, x1 = rng.normal(size=200_000), 0.5 * rng.normal(size=200_000)
    times = np.array([0.0, 0.2, 0.5, 0.8, 1.0])
    ours = np.asarray(velocity.linear_velocity(times, 0.5))[:, 0, 0]
    for t, c in zip(times, ours, strict=True):
        x = (1 - t) * x0 + t * x1
        assert abs(c - (x * (x1 - x0)).mean() / (x * x).mean()) < 0.02
    np.testing.assert_allclose(ours[[0, -1]], [-1, 1], atol=1e-6)


def test_the_skip_adds_a_multiple_of_the_motion_and_no_parameter(field):
    model, params, apply = field
    x, t, audio, style = inputs(2, 16)
    mask = np.arange(16)[None] < np.array([[16], [10]])
    with_skip = jax.jit(model.clone(skip_std=0.5).apply)
    with_skip = with_skip(params, x, t, audio, style, None, mask)
    added = with_skip - apply(params, x, t, audio, style, None, mask)
    expected = np.asarray(velocity.linear_velocity(t, 0.5)) * x * mask[..., None]
    np.testing.assert_allclose(added, expected, atol=1e-4)


def test_odd_lengths_come_back_odd(field):
    _, params, apply = field
    for T in (7, 9):
        assert apply(params, *inputs(1, T)).shape == (1, T, 56)


def test_block_layout_is_traced_not_compiled(field):
    model, params, _ = field
    apply = jax.jit(model.apply)
    x, t, audio, style = inputs(1, 24)
    for size in (4, 8, 12, 24):
        apply(params, x, t, audio, style, (np.arange(24) // size)[None])
    assert apply._cache_size() == 1


def test_style_is_a_masked_mean_of_any_length():
    model = models.StyleEncoder(width=6, hidden=16, heads=2)
    rng = np.random.default_rng(0)
    motion = rng.normal(size=(2, 30, 56)).astype("f4")
    params = jax.jit(model.init)(jax.random.key(0), motion)
    apply = jax.jit(model.apply)
    mean, logvar = apply(params, motion[:, :20])
    assert mean.shape == logvar.shape == (2, 6)
    mask = np.arange(30)[None] < 20
    padded = np.where(mask[..., None], motion, 99.0)
    masked, _ = apply(params, padded, np.broadcast_to(mask, (2, 30)))
    np.testing.assert_allclose(masked, mean, atol=1e-5)
    short, _ = apply(params, motion[:, :10])  # 0.4 s
    assert np.isfinite(short).all() and np.abs(short - mean).max() > 1e-3


def test_adapter_is_chunk_causal():
    model = models.Adapter(out_dim=9, width=16, depth=2, heads=2, feed_forward=16)
    tokens = np.random.default_rng(0).normal(size=(1, 15, 7)).astype("f4")
    params = jax.jit(model.init)(jax.random.key(0), tokens)
    apply = jax.jit(model.apply)
    block = (np.arange(15) // 5)[None]
    base = apply(params, tokens, block)
    assert base.shape == (1, 15, 9)
    for cut in (5, 10):
        changed = tokens.copy()
        changed[:, cut:] += 1
        out = apply(params, changed, block)
        np.testing.assert_array_equal(out[:, :cut], base[:, :cut])
        assert np.abs(out - base)[:, cut:].max() > 0


def test_known_frames_run_once_and_new_ones_after_them(field):
    """Two passes, the second with the first's history, are one pass over all."""
    model, params, apply = field
    apart = {"params": layers.unstack(params["params"])}
    known, model = 12, model.clone(stacked=False)
    x, _, audio, style = inputs(3, 20)
    t = np.array([0.1, 0.5, 0.9], "f4")
    block = np.repeat((np.arange(20) - known) // 8, 3).reshape(20, 3).T
    mask = np.arange(20)[None] >= np.array([0, 4, known])[:, None]
    whole = apply(params, x, t, audio, style, block, mask)
    first = [a[:, :known] for a in (x, audio, style, block, mask)]
    leave = jax.jit(functools.partial(model.apply, mutable=["history"]))
    before, left = leave(apart, first[0], t, *first[1:])
    np.testing.assert_allclose(before, whole[:, :known], atol=2e-5)
    second = [a[:, known:] for a in (x, audio, style)]
    go_on = jax.jit(model.apply)
    out = go_on(apart | left, second[0], t, *second[1:], block, mask)
    np.testing.assert_allclose(out, whole[:, known:], atol=2e-5)
    none = go_on(apart, second[0], t, *second[1:])
    assert np.abs(none - out)[0].max() > 1e-2  # the history is really read


def test_times_projected_ahead_are_those_of_the_field(field):
    model, params, apply = field
    apart = layers.unstack(params["params"])
    x, t, audio, style = inputs(3, 8)
    moments = velocity.project_times(apart, t, 56 + 12 + 6)
    want = apply(params, x, t, audio, style)
    model = model.clone(stacked=False)
    away = np.full(3, 7.0, "f4")  # must go unread
    got = jax.jit(model.apply)(
        {"params": apart, "times": moments}, x, away, audio, style
    )
    np.testing.assert_allclose(got, want, atol=2e-5)
