"""Streaming: any feed equals the whole clip; rows stay apart; nothing leaks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toktalk_jax import models
from toktalk_jax import motion as mo
from toktalk_jax.streaming import AdapterSpec, Sampler

A, K, B = 12, 6, 3
MODEL = models.VelocityField(
    channels=(16, 16), blocks_per_stage=1, mid_blocks=1, heads=2, head_dim=8
)


@pytest.fixture(scope="module")
def params():
    zeros = [jnp.zeros(s) for s in ((1, 4, 56), (1,), (1, 4, A), (1, 4, K))]
    params = jax.jit(MODEL.init)(jax.random.key(0), *zeros)["params"]
    # A random final layer of order one, so that every leak would show.
    return jax.tree.map(lambda p: p * 1.3, params)


@pytest.fixture(scope="module")
def stats():
    rng = np.random.default_rng(3)
    normal, uniform = rng.normal, rng.uniform
    std = uniform(0.5, 2, 56)
    std[5] = 0
    values = (normal(size=56), std, normal(size=A), uniform(0.5, 2, A))
    return mo.Stats(*(v.astype("f4") for v in values))


@pytest.fixture(scope="module")
def sampler(params, stats):
    return Sampler(MODEL, params, stats, context_frames=20, num_steps=3)


@pytest.fixture(scope="module")
def feed():
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(B, 23, A)).astype("f4")
    style = rng.normal(size=(B, K)).astype("f4")
    return jax.random.split(jax.random.key(7), B), tokens, style


def stream_through(sampler, keys, tokens, style, sizes):
    stream, out, at = sampler.init(keys, style), [], 0
    for size in [*sizes, tokens.shape[1]]:
        stream, chunks = sampler.push(stream, tokens[:, at : at + size])
        out += chunks
        at += size
    stream, tail = sampler.flush(stream)
    return np.concatenate([*out, tail] if tail is not None else out, 1)


@pytest.mark.parametrize(
    "sizes", [[], [1] * 22, [5, 5, 5], [2, 9, 0, 1, 7], [23]], ids=str
)
def test_any_split_of_the_feed_equals_the_whole_clip_bitwise(sampler, feed, sizes):
    keys, tokens, style = feed
    whole = np.asarray(sampler.sample_clip(keys, tokens, style))
    assert whole.shape == (B, 46, 56) and np.isfinite(whole).all()
    streamed = stream_through(sampler, keys, tokens, style, sizes)
    np.testing.assert_array_equal(streamed, whole)


def test_doors_of_a_stream(sampler, feed):
    keys, tokens, style = feed
    with pytest.raises(ValueError, match=rf"expected \[{B}, {K}\]"):
        sampler.init(keys, style[:, :-1])
    stream, _ = sampler.push(sampler.init(keys, style), tokens[:, :3])
    ended, tail = sampler.flush(stream)
    assert tail.shape[1] == 6 and sampler.flush(ended)[1] is None
    with pytest.raises(ValueError, match="this stream has ended"):
        sampler.push(ended, tokens)
    sampler.push(stream, tokens)  # a stream is immutable: the one before goes on


def test_rows_equal_their_solo_runs_and_differ_from_each_other(sampler, feed):
    keys, tokens, style = feed
    whole = np.asarray(sampler.sample_clip(keys, tokens, style))
    for row in range(B):
        one = slice(row, row + 1)
        solo = sampler.sample_clip(keys[one], tokens[one], style[one])
        error = np.linalg.norm(solo - whole[one]) / np.linalg.norm(whole[one])
        assert error < 1e-5
    # Same key, tokens and style in another batch seat: the same motion.
    assert np.abs(whole[0] - whole[1]).max() > 0.1


def test_rows_may_join_and_leave(sampler, feed):
    """A row started two chunks later inside a batch equals its solo run."""
    keys, tokens, style = feed
    early = sampler.init(keys[:1], style[:1])
    early, _ = sampler.push(early, tokens[:1, :10])
    late = sampler.init(keys[1:2], style[1:2])
    both = jax.tree.map(
        lambda a, b: jnp.concatenate([a, b]),
        *(s.replace(pending=None) for s in (early, late)),
    )
    both = both.replace(pending=np.zeros((2, 0, A), "f4"))
    both, chunks = sampler.push(
        both, np.concatenate([tokens[:1, 10:20], tokens[1:2, :10]])
    )
    joined = np.concatenate(chunks, 1)
    solo_0 = np.asarray(sampler.sample_clip(keys[:1], tokens[:1], style[:1]))
    solo_1 = np.asarray(sampler.sample_clip(keys[1:2], tokens[1:2], style[1:2]))
    np.testing.assert_allclose(joined[0], solo_0[0, 20:40], atol=1e-4)
    np.testing.assert_allclose(joined[1], solo_1[0, :20], atol=1e-4)


def test_a_dead_coefficient_stays_at_its_mean(sampler, feed, stats):
    motion = sampler.sample_clip(*feed)
    np.testing.assert_array_equal(motion[..., 5], stats.motion_mean[5])


def test_nothing_compiles_after_the_first_chunk(params, stats, feed):
    keys, tokens, style = feed
    sampler = Sampler(MODEL, params, stats, context_frames=10, num_steps=2)
    stream, _ = sampler.push(sampler.init(keys, style), tokens[:, :5])
    for guidance in (0.0, 0.7):
        stream = sampler.init(keys, style + 1, guidance)
        for _ in range(3):
            stream, _ = sampler.push(stream, tokens[:, :5] * 2)
    assert sampler._step._cache_size() == 1


def context_chunk_pairs():
    return [(o, c) for o in (2, 6, 10, 50) for c in (2, 10, 20, 30)]


@pytest.mark.parametrize(("context", "chunk"), context_chunk_pairs(), ids=str)
def test_a_new_frame_depends_on_its_whole_chunk_and_nothing_later(
    params, stats, context, chunk
):
    sampler = Sampler(
        MODEL,
        params,
        stats,
        chunk_frames=chunk,
        context_frames=context,
        num_steps=2,
    )
    per_chunk, chunks = chunk // 2, 3
    count = per_chunk * chunks
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(1, count, A)).astype("f4")
    # Row 0 is the truth; row i + 1 has token i changed: one batched solve for all.
    rows = np.repeat(tokens, count + 1, 0)
    rows[np.arange(count) + 1, np.arange(count)] += 2.0
    keys = jnp.broadcast_to(jax.random.key(1), (count + 1,))
    style = np.ones((count + 1, K), "f4")
    motion = np.asarray(sampler.sample_clip(keys, rows, style))
    change = np.abs(motion[1:] - motion[:1]).max(-1)  # [token, frame]
    for token in range(count):
        start = token // per_chunk * chunk
        assert (change[token, start : start + chunk] > 0).all(), "own chunk"
        np.testing.assert_array_equal(change[token, :start], 0)


def test_known_frames_carry_over_the_chunk_border(sampler, feed):
    """A changed first chunk moves the second: the context is really read."""
    keys, tokens, style = feed
    changed = tokens.copy()
    changed[:, :5] += 1
    a = np.asarray(sampler.sample_clip(keys, tokens, style))
    b = np.asarray(sampler.sample_clip(keys, changed, style))
    assert np.abs(a - b)[:, 10:20].max() > 1e-3


def test_clean_known_frames_and_temperature(params, stats, feed):
    keys, tokens, style = feed
    clean = Sampler(MODEL, params, stats, num_steps=2, context_frames=10, known="clean")
    out = np.asarray(clean.sample_clip(keys, tokens, style))
    np.testing.assert_array_equal(
        stream_through(clean, keys, tokens, style, [3, 4]), out
    )
    still = Sampler(
        MODEL, params, stats, num_steps=1, context_frames=10, temperature=0.0
    )
    a = still.sample_clip(keys, tokens, style)
    b = still.sample_clip(keys[::-1], tokens, style)
    np.testing.assert_array_equal(a, b)  # no noise: the key has no say


def test_an_adapter_streams_like_the_whole_clip(params, stats, feed):
    keys, tokens, style = feed
    adapter = models.Adapter(out_dim=A, width=16, depth=2, heads=2, feed_forward=16)
    foreign = np.random.default_rng(5).normal(size=(B, 23, 7)).astype("f4")
    spec = AdapterSpec(
        adapter,
        jax.jit(adapter.init)(jax.random.key(0), foreign)["params"],
        np.full(7, 0.5, "f4"),
        np.full(7, 2.0, "f4"),
        context_tokens=8,
    )
    sampler = Sampler(
        MODEL, params, stats, context_frames=10, num_steps=2, adapter=spec
    )
    whole = np.asarray(sampler.sample_clip(keys, foreign, style))
    streamed = stream_through(sampler, keys, foreign, style, [3, 8, 1])
    np.testing.assert_array_equal(streamed, whole)
    later = foreign.copy()
    later[:, 10:] += 1
    out = np.asarray(sampler.sample_clip(keys, later, style))
    np.testing.assert_array_equal(out[:, :20], whole[:, :20])
    assert np.abs(out - whole)[:, 20:].max() > 0


def test_a_clip_without_tokens_is_refused(sampler, feed):
    keys, tokens, style = feed
    with pytest.raises(ValueError, match="no tokens"):
        sampler.sample_clip(keys, tokens[:, :0], style)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.zeros((B, 5, A + 1), "f4"), r"expected \[3, any, 12\]"),
        (np.zeros((B, 5, A), "i4"), "expected float"),
        (np.full((B, 5, A), np.nan, "f4"), "NaN"),
        (np.zeros((B + 1, 5, A), "f4"), "expected"),
    ],
)
def test_bad_tokens_are_refused_and_the_stream_is_unharmed(
    sampler, feed, tokens, message
):
    keys, good, style = feed
    stream, _ = sampler.push(sampler.init(keys, style), good[:, :7])
    with pytest.raises(ValueError, match=message):
        sampler.push(stream, tokens)
    stream, chunks = sampler.push(stream, good[:, 7:10])
    whole = np.asarray(sampler.sample_clip(keys, good, style))
    np.testing.assert_array_equal(chunks[0], whole[:, 10:20])


@pytest.mark.parametrize(
    "options",
    [
        {"chunk_frames": 5},
        {"context_frames": 0},
        {"num_steps": 0},
        {"known": "warm"},
        {"dtype": "float16"},
    ],
    ids=str,
)
def test_bad_options_are_refused_by_name(params, stats, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Sampler(MODEL, params, stats, **options)
