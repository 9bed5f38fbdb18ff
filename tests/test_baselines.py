"""The baselines: the mean face, and ridge on the tokens that a stream sees."""

import numpy as np
import pytest

from toktalk_jax.baselines import ridge, static

A = 6


def lve_like(prediction, truth):
    return float(np.abs(prediction - truth).mean())


def planted(count, seed, frames=75, noise=0.0, later=0):
    """Clips whose frame 2s, 2s+1 is a linear map of tokens s-2 .. s+later."""
    maps = np.random.default_rng(99).normal(0, 0.3, (3 + later, 2, A, 56))
    rng = np.random.default_rng(seed)
    clips = []
    for _ in range(count):
        tokens = rng.normal(size=(-(-frames // 2) + 1, A)).astype("f4")
        padded = np.pad(tokens, ((2, later), (0, 0)))
        motion = 0.2 + sum(
            np.einsum("sa,paf->spf", padded[i : i + len(tokens)], m)
            for i, m in enumerate(maps)
        )
        motion = motion.reshape(-1, 56)[:frames]
        motion = motion + noise * rng.normal(size=motion.shape)
        clips.append((tokens, motion.astype("f4")))
    return clips


@pytest.fixture(scope="module")
def fitted():
    train, validation = planted(30, 0), planted(4, 1)
    return ridge.fit(train, validation, lve_like, lambdas=(1e-6, 1e-2, 1.0))


def test_mean_face():
    a, b = np.full((3, 56), 1.0, "f4"), np.full((1, 56), 5.0, "f4")
    mean = static.fit([a, b])
    np.testing.assert_allclose(mean, 2.0)  # over frames, not over clips
    assert static.predict(mean, 7).shape == (7, 56)
    with pytest.raises(ValueError, match="no frame"):
        static.fit([])
    with pytest.raises(ValueError, match=r"\(3, 55\)"):
        static.fit([a[:, :55]])


@pytest.mark.parametrize("frames", [80, 75, 74, 61, 3])
def test_ridge_recovers_a_planted_map(fitted, frames):
    assert fitted.penalty == 1e-6 and list(fitted.errors) == [1e-6, 1e-2, 1.0]
    ((tokens, motion),) = planted(1, 7, frames)
    got = ridge.predict(fitted, tokens, frames)
    assert got.shape == (frames, 56) and got.dtype == np.float32
    np.testing.assert_allclose(got, motion, atol=2e-3)


def test_lambda_is_chosen_on_validation():
    train, validation = planted(6, 0, noise=1.0), planted(6, 1)
    fit = ridge.fit(train, validation, lve_like, lambdas=(1e-4, 0.1, 1e4))
    assert fit.penalty == 0.1 == min(fit.errors, key=fit.errors.get)


@pytest.mark.parametrize("frames", [75, 74, 63])
def test_ridge_sees_no_token_after_its_chunk(frames):
    fit = ridge.fit(planted(8, 0, later=4), planted(2, 1), lve_like, lambdas=(0.1,))
    ((tokens, _),) = planted(1, 3, frames)
    base = ridge.predict(fit, tokens, frames)
    for token in range(-(-frames // 2)):
        changed = tokens.copy()
        changed[token] += 5.0
        moved = np.abs(ridge.predict(fit, changed, frames) - base).max(1) > 0
        chunk = token // 5
        assert not moved[: 10 * chunk].any(), token
        assert moved[2 * token : 10 * (chunk + 1)].all(), token
        # Its own chunk and the four tokens before: nothing earlier is read, except by
        # the tail, whose nine tokens end with the clip's last.
        whole = 10 * (frames // 10)
        assert not moved[10 * (chunk + 2) : whole].any(), token
        if token < -(-frames // 2) - 9:
            assert not moved[max(whole, 10 * (chunk + 1)) :].any(), token
    # Tokens past the last frame belong to no frame.
    changed = tokens.copy()
    changed[-(-frames // 2) :] += 5.0
    assert (ridge.predict(fit, changed, frames) == base).all()


def test_the_future_inside_a_chunk_is_used():
    """Position 0 may read all five tokens: the fit must find a map that looks ahead."""
    train, test = planted(40, 0, later=2), planted(3, 5, later=2)
    fit = ridge.fit(train, test, lve_like, lambdas=(1e-6,))
    for tokens, motion in test:
        error = np.abs(ridge.predict(fit, tokens, 75) - motion)[:70].reshape(7, 10, 56)
        assert error[:, :6].max() < 5e-3  # tokens s+1, s+2 lie in the chunk
        assert error[:, 6:].mean() > 0.05  # and here they do not


@pytest.mark.parametrize("clips", [10, 1])  # more rows than the 54 features, fewer
def test_one_fit_equals_plain_least_squares(clips):
    """Centring, shared Gram and PCs against one dense solve per position."""
    train = planted(clips, 0, noise=0.3)
    fit = ridge.fit(train, train[:2], lve_like, lambdas=(0.2,))
    rows = [ridge._training_rows(t, m, 10) for t, m in train]
    x = np.concatenate([r[0] for r in rows]).astype("f8")
    y = np.concatenate([r[1] for r in rows]).astype("f8")
    assert len(x) == clips * (37 - 5 + 1)
    xc = x - x.mean(0)[None]
    for position in (0, 9):
        yc = y[:, position] - y[:, position].mean(0)[None]
        gram = xc.T @ xc / len(x) + 0.2 * np.eye(x.shape[1])
        expected = np.linalg.solve(gram, xc.T @ yc / len(x))
        got = fit.weights.reshape(-1, 10, 56)[:, position]
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_few_components_restrict_the_motion():
    train = planted(10, 0)
    fit = ridge.fit(train, train[:2], lve_like, lambdas=(1e-3,), components=3)
    motion = ridge.predict(fit, train[0][0], 75).astype("f8")
    spread = np.linalg.svd(motion - motion.mean(0)[None], compute_uv=False)
    assert spread[2] > 1e-2 and spread[3] < 1e-4 * spread[0]


def test_dead_coefficients_keep_their_mean():
    train = [(t, m.copy()) for t, m in planted(10, 0)]
    for _, motion in train:
        motion[:, 48:50] = 0.0
    fit = ridge.fit(train, train[:2], lve_like, lambdas=(1e-3,))
    assert np.abs(ridge.predict(fit, train[0][0], 75)[:, 48:50]).max() < 1e-6


def test_ridge_refuses_bad_input(fitted):
    clips = planted(2, 0)
    tokens, motion = clips[0]
    with pytest.raises(ValueError, match="some 38 for 75 frames"):
        ridge.predict(fitted, tokens[:30], 75)
    with pytest.raises(ValueError, match="even"):
        ridge.fit(clips, clips, lve_like, chunk_frames=5)
    with pytest.raises(ValueError, match="train and validation"):
        ridge.fit(clips, [], lve_like)
    with pytest.raises(ValueError, match="whole chunk"):
        ridge.fit([(tokens[:4], motion[:8])], clips, lve_like)
    broken = tokens.copy()
    broken[0, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        ridge.predict(fitted, broken, 75)
