"""Streaming: any feed equals the whole clip; rows stay apart; nothing leaks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toktalk_jax import flow, models
from toktalk_jax import motion as mo
from toktalk_jax.streaming import AdapterSpec, Sampler
from tools.bench_stream import compile_counter

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


def over_whole_windows(params, stats, keys, tokens, styles, guidance, **options):
    """Motion of the same sampling with nothing kept: every step runs every frame.

    Args:
      tokens: [B, chunks, C / 2, A]; styles: [B, chunks, K], of each chunk's frames.
    """
    C, O, n = (options[k] for k in ("chunk_frames", "context_frames", "num_steps"))
    times = flow.time_grid(n)
    frame = np.arange(-O, C)
    block = jnp.broadcast_to((frame // C)[None], (B, O + C))
    known = (frame < 0)[None, :, None]

    @jax.jit
    def solve(target, noise, audio, style, valid):
        x = noise
        for t, dt in zip(times[:-1], np.diff(times), strict=True):
            clean = options["known"] == "clean"
            path = target if clean else (1 - t) * noise + t * target
            x = jnp.where(known, path, x)
            moment = jnp.where((frame < 0) & clean, 1.0, t)[None]
            moment = jnp.broadcast_to(moment, valid.shape)
            at = lambda a, s, x=x, m=moment: MODEL.apply(  # noqa: E731
                {"params": params}, x, m, a, s, block, valid
            )
            w = guidance[:, None, None]
            v = (1 + w) * at(audio, style) - w * at(0 * audio, 0 * style)
            x = x + dt * v
        return x[:, O:]

    past = lambda width: jnp.zeros((B, O, width))  # noqa: E731
    target, noise, audio, style = past(56), past(56), past(A), past(K)
    grow = lambda a, new: jnp.concatenate([a, new], 1)  # noqa: E731
    out = []
    for c in range(tokens.shape[1]):
        folded = [jax.random.fold_in(k, c) for k in keys]
        noise = grow(noise, jnp.stack([jax.random.normal(k, (C, 56)) for k in folded]))
        new = (tokens[:, c] - stats.token_mean) / stats.token_std
        audio = grow(audio, jnp.repeat(new, 2, 1))
        style = grow(style, jnp.repeat(styles[:, c][:, None], C, 1))
        window = [a[:, -O - C :] for a in (noise, audio, style)]
        target = grow(target, jnp.zeros((B, C, 56)))
        valid = jnp.broadcast_to((frame >= -C * c)[None], (B, O + C))
        x = solve(target[:, -O - C :], *window, valid)
        target = target.at[:, -C:].set(x)
        out.append(stats.motion_mean + stats.motion_std * x)
    return np.concatenate(out, 1)


@pytest.mark.parametrize(
    "options",
    [
        dict(chunk_frames=10, context_frames=20, num_steps=3, known="noised"),
        dict(chunk_frames=6, context_frames=2, num_steps=2, known="noised"),
        dict(chunk_frames=4, context_frames=14, num_steps=4, known="clean"),
    ],
    ids=str,
)
def test_prefilled_contexts_give_what_whole_windows_give(params, stats, options):
    """Every row its own guidance, a style that changes live, from the first chunk on.

    Known frames keep the style that they were solved with.
    """
    rng, chunks = np.random.default_rng(11), 5
    tokens = rng.normal(size=(B, chunks, options["chunk_frames"] // 2, A)).astype("f4")
    styles = np.repeat(rng.normal(size=(B, 1, K)), chunks, 1).astype("f4")
    styles[:, 3:] += rng.normal(size=(B, 1, K))
    keys, guidance = jax.random.split(jax.random.key(5), B), np.array([0, 0.3, 2], "f4")
    with jax.numpy_rank_promotion("allow"):
        want = over_whole_windows(
            params, stats, keys, tokens, styles, guidance, **options
        )
    sampler = Sampler(MODEL, params, stats, **options)
    stream, out = sampler.init(keys, styles[:, 0], guidance), []
    for c in range(chunks):
        stream, motion = sampler.step(stream.replace(style=styles[:, c]), tokens[:, c])
        out.append(motion)
    got = np.concatenate(out, 1)
    assert np.linalg.norm(got - want) < 1e-5 * np.linalg.norm(want)
    assert np.abs(got - want).max() < 1e-4 * want.std()


def test_a_stream_goes_on_in_a_sampler_of_other_steps_and_chunks(params, stats, feed):
    """What was prefilled for one is worth nothing to the other, and is not used."""
    keys, tokens, style = feed
    make = lambda **o: Sampler(MODEL, params, stats, context_frames=10, **o)  # noqa: E731
    short, fine = make(num_steps=1), make(num_steps=2, chunk_frames=6)
    stream, _ = short.push(short.init(keys, style), tokens[:, :10])
    bare = stream.replace(history=None)
    ours, motion = fine.push(stream, tokens[:, 10:13])
    again, same = fine.push(bare, tokens[:, 10:13])
    np.testing.assert_array_equal(motion[0], same[0])
    assert motion[0].shape == (B, 6, 56)
    # Sixteen frames fill the context of ten: none of them may count as padding.
    assert (np.asarray(again.frames) == 26).all()
    back, motion = short.push(ours, tokens[:, 13:18])
    other, same = short.push(ours.replace(history=None), tokens[:, 13:18])
    np.testing.assert_array_equal(motion[0], same[0])


def test_a_dead_coefficient_stays_at_its_mean(sampler, feed, stats):
    motion = sampler.sample_clip(*feed)
    np.testing.assert_array_equal(motion[..., 5], stats.motion_mean[5])


def mixed_pushes(sampler, feed, pushes):
    """How often XLA compiled while streams of one and of three rows came and went."""
    _, tokens, style = feed
    rng, compiles, streams = np.random.default_rng(4), compile_counter(), {}
    for i in range(pushes):
        rows = (1, B)[i % 2]
        if rows not in streams or rng.random() < 0.1:
            guidance = (None, 0, 0.7, np.full(rows, 0.2))[rng.integers(4)]
            keys = jax.random.split(jax.random.key(i), rows)
            streams[rows] = sampler.init(keys, style[:rows] + i, guidance)
        count = rng.integers(0, 12)
        streams[rows], _ = sampler.push(streams[rows], tokens[:rows, :count])
        if rng.random() < 0.05:
            sampler.flush(streams.pop(rows))
    return len(compiles)


@pytest.mark.parametrize("pushes", [40, pytest.param(1000, marks=pytest.mark.long)])
def test_nothing_compiles_after_warm_up(params, stats, feed, pushes):
    sampler = Sampler(MODEL, params, stats, context_frames=10, num_steps=2)
    sampler.warm_up((1, B))
    assert mixed_pushes(sampler, feed, pushes) == 0
    cold = Sampler(MODEL, params, stats, context_frames=10, num_steps=2)
    assert mixed_pushes(cold, feed, 2) > 0  # the counter counts


# Every size once; context shorter than the chunk, as long, longer.
PAIRS = [(2, 30), (6, 20), (10, 10), (50, 2)]
FURTHER = [
    pytest.param(context, chunk, marks=pytest.mark.long)
    for context in (2, 6, 10, 50)
    for chunk in (2, 10, 20, 30)
    if (context, chunk) not in PAIRS
]


@pytest.mark.parametrize(("context", "chunk"), PAIRS + FURTHER, ids=str)
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
    # A chunk longer than the adapter was trained on gives it no more at once.
    taken = {}
    for frames in (10, 30):
        longer = Sampler(
            *(MODEL, params, stats),
            **{"chunk_frames": frames, "context_frames": 30, "num_steps": 1},
            adapter=spec,
        )
        stream = longer.init(keys, style)
        for k in range(0, 15, frames // 2):
            stream, _ = longer.step(stream, foreign[:, k : k + frames // 2])
        taken[frames] = np.asarray(stream.tokens)
    np.testing.assert_allclose(taken[30], taken[10], atol=1e-5)
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
