"""Rates, chunk arithmetic and normalisation of the motion vector."""

import numpy as np
import pytest

from toktalk_jax import motion as mo


def test_slices_cover_the_vector_once():
    seen = np.zeros(mo.F, int)
    for part in (mo.EXPRESSION, mo.JAW, mo.NECK):
        seen[part] += 1
    np.testing.assert_array_equal(seen, 1)
    assert len(mo.ARKIT_52) == len(set(mo.ARKIT_52)) == 52
    assert len(mo.ARKIT_EXPRESSION) == 48


def test_chunk_frames_are_whole_tokens():
    assert [mo.chunk_frames(s) for s in (0.08, 0.4, 0.8, 1.2)] == [2, 10, 20, 30]


@pytest.mark.parametrize("seconds", [0.1, 0.5, 0.03, 0.0, -1.0])
def test_a_chunk_that_fits_no_token_names_the_nearest(seconds):
    with pytest.raises(ValueError, match="nearest sizes that fit are"):
        mo.chunk_frames(seconds)


def test_stacking_keeps_every_sub_frame():
    tokens = np.arange(10 * 3).reshape(10, 3).astype("f4")
    stacked = mo.to_token_rate(tokens, 50.0)
    assert stacked.shape == (2, 12)  # the half-covered third cell is dropped
    np.testing.assert_array_equal(stacked[1], tokens[4:8].ravel())


def test_area_average_integrates_the_cell_and_reads_no_further():
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(64, 2)).astype("f8")
    out = mo.to_token_rate(tokens, 80.0)  # 6.4 tokens a cell
    assert out.shape == (10, 2)
    by_hand = (tokens[6] * 0.6 - tokens[6]) + tokens[:7].sum(0)
    by_hand = tokens[:6].sum(0) + 0.4 * tokens[6]
    np.testing.assert_allclose(out[0], by_hand / 6.4, rtol=1e-12)
    for cell in range(10):
        changed = tokens.copy()
        changed[int(np.ceil((cell + 1) * 6.4)) :] += 9
        np.testing.assert_array_equal(
            mo.to_token_rate(changed, 80.0)[: cell + 1], out[: cell + 1]
        )


@pytest.mark.parametrize("rate_hz", [12.5, 25.0, 31.25, 50.0, 80.0, 16_000 / 183])
@pytest.mark.parametrize("size", [1, 3, 33, 500])
def test_tokens_in_pieces_are_those_of_the_whole(rate_hz, size):
    tokens = np.random.default_rng(0).normal(size=(500, 2))
    stream = mo.ToTokenRate(rate_hz)
    pieces = [stream.push(tokens[i : i + size]) for i in range(0, 500, size)]
    wanted = mo.to_token_rate(tokens, rate_hz)
    np.testing.assert_allclose(np.concatenate(pieces), wanted, atol=1e-9)
    # And each as soon as its cell is full.
    for given, after in enumerate(np.cumsum([len(p) for p in pieces]), 1):
        heard = min(given * size, 500)
        assert after == len(mo.to_token_rate(tokens[:heard], rate_hz))


def test_a_rate_under_the_base_is_refused():
    with pytest.raises(ValueError, match="under the base"):
        mo.to_token_rate(np.zeros((4, 2)), 10.0)


def test_stats_use_the_within_clip_std_and_mark_dead_coefficients():
    rng = np.random.default_rng(0)
    clips = [rng.normal(size=(50, mo.F)) * 0.1 + offset for offset in (-5, 5)]
    for clip in clips:
        clip[:, 7] = 3.0
    mean, std = mo.motion_stats(clips)
    assert std[7] == 0 and (np.delete(std, 7) < 0.2).all()  # offsets do not count
    stats = mo.Stats(mean, std, np.zeros(4, "f4"), np.ones(4, "f4"))
    assert not stats.live[7] and stats.live.sum() == mo.F - 1
    z = stats.normalise(clips[0])
    back = stats.denormalise(z)
    np.testing.assert_allclose(
        np.delete(back, 7, 1), np.delete(clips[0], 7, 1), atol=1e-5
    )
    # A dead coefficient returns to its mean whatever the network says.
    np.testing.assert_array_equal(stats.denormalise(z + 100)[:, 7], mean[7])


def test_stats_survive_json_exactly_and_name_what_is_missing():
    rng = np.random.default_rng(1)
    stats = mo.Stats(*(rng.normal(size=n).astype("f4") for n in (56, 56, 9, 9)))
    again = mo.Stats.from_json(stats.to_json())
    for a, b in zip(stats, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert stats.hash() == again.hash()
    with pytest.raises(ValueError, match="token_std"):
        mo.Stats.from_json('{"motion_mean": [], "motion_std": [], "token_mean": []}')
