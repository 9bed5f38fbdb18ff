"""Tokenizers: causality, streams, state files, weights that are missing."""

import time
import types

import numpy as np
import pytest
import scipy.signal

from toktalk_jax import motion as mo
from toktalk_jax.tokenizers import mel_rvq
from toktalk_jax.tokenizers.ahead import Ahead
from toktalk_jax.tokenizers.lyra import Lyra
from toktalk_jax.tokenizers.mel_rvq import MelRVQ

TOKEN = mo.SAMPLES_PER_TOKEN


def babble(seconds, seed=0):
    """Noise through moving resonances, in syllables: something to tokenise."""
    rng = np.random.default_rng(seed)
    pieces, filter_state = [], np.zeros(2)
    for _ in range(round(seconds * 10)):
        hz, loud = rng.uniform(200, 3500), 10 ** rng.uniform(-2, -0.5)
        pole = 0.95 * np.exp(2j * np.pi * hz / mo.SAMPLE_RATE)
        noise = loud * rng.standard_normal(1600)
        a = [1, -2 * pole.real, abs(pole) ** 2]
        out, filter_state = scipy.signal.lfilter([0.1], a, noise, zi=filter_state)
        pieces.append(out)
    return np.concatenate(pieces).astype(np.float32)


@pytest.fixture(scope="module")
def tokenizer():
    return mel_rvq.fit([babble(20, seed) for seed in range(3)], books=4, size=32)


@pytest.fixture(scope="module")
def lyra_folder(shared):
    pytest.importorskip("ai_edge_litert")
    return shared / "lyra_v2"


def random_splits(wave, rng, longest):
    place = 0
    while place < len(wave):
        count = int(rng.integers(0, longest))
        yield wave[place : place + count]
        place += count


def check_stream(tokenizer, wave, longest):
    whole = tokenizer.embed(wave)
    for seed in range(3):
        stream = tokenizer.stream()
        pieces = random_splits(wave, np.random.default_rng(seed), longest)
        out = [stream.push(piece) for piece in pieces] + [stream.flush()]
        np.testing.assert_array_equal(np.concatenate(out), whole)
        assert len(stream.flush()) == 0


def check_causal(tokenizer, wave):
    """Replacing the sound after base token s changes no token up to it."""
    per_token = round(tokenizer.rate_hz / mo.TOKEN_HZ)
    codes, noise = tokenizer.encode(wave), babble(len(wave) / mo.SAMPLE_RATE + 1, 99)
    for s in (0, 3, 11):
        cut = (s + 1) * TOKEN
        other = np.concatenate([wave[:cut], noise[cut : len(wave)]])
        changed = tokenizer.encode(other)
        kept = (s + 1) * per_token
        np.testing.assert_array_equal(changed[:kept], codes[:kept])
        assert (
            changed[kept : kept + per_token] != codes[kept : kept + per_token]
        ).any()


def test_mel_rvq_lengths(tokenizer):
    for samples in (0, 1, TOKEN - 1, TOKEN, TOKEN + 1, 5 * TOKEN):
        tokens = tokenizer.embed(babble(0.5)[:samples])
        assert tokens.shape == (-(-samples // TOKEN), 512)
        assert tokens.dtype == np.float32


def test_log_mels_are_those_of_a_plain_stft():
    wave = babble(1.0)[: 12 * TOKEN]
    frames = np.stack(
        [
            np.pad(wave, (240, 0))[k * 160 : k * 160 + 400]
            for k in range(12 * mel_rvq.HOPS_PER_TOKEN)
        ]
    ).astype(np.float64)
    window = scipy.signal.windows.hann(402)[1:-1]
    window /= window.sum() / 2
    power = np.abs(np.fft.rfft(frames * window, 512)) ** 2
    expected = np.log(power @ mel_rvq._filterbank() + mel_rvq.FLOOR)
    np.testing.assert_allclose(
        mel_rvq.log_mels(wave).reshape(-1, 64), expected, atol=2e-4
    )


def test_log_mels_of_a_sine_peak_in_its_band_at_its_level():
    time_s = np.arange(TOKEN * 4) / mo.SAMPLE_RATE
    for hz, level in ((300.0, 1.0), (3000.0, 0.1)):
        wave = (level * np.sin(2 * np.pi * hz * time_s)).astype(np.float32)
        mels = mel_rvq.log_mels(wave)[2, 4]
        centres = mel_rvq._filterbank().T @ np.arange(257) * mo.SAMPLE_RATE / 512
        assert abs(centres[np.argmax(mels)] - hz) < 0.06 * hz + 30
        assert np.exp(mels.max()) == pytest.approx(level**2, rel=0.9)


def test_mel_rvq_stream_equals_offline_bitwise(tokenizer):
    wave = babble(2.0, 5)
    check_stream(tokenizer, wave, 5000)
    check_stream(tokenizer, wave[: 2 * TOKEN + 77], 40)


def test_stream_hears_what_the_whole_sound_holds(tokenizer):
    wave = babble(2.0, 5)
    z = tokenizer._standardise(mel_rvq.log_mels(wave))
    expected = np.stack([tokenizer._quantise(row) for row in z])
    np.testing.assert_array_equal(tokenizer.encode(wave), expected)


def test_mel_rvq_is_causal(tokenizer):
    check_causal(tokenizer, babble(2.0, 6))


@pytest.mark.parametrize("tokens", [1, 2])
def test_tokens_ahead_stand_beside_their_own(tokenizer, tokens):
    """The same in a stream, and nothing further ahead is heard."""
    ahead, wave = Ahead(tokenizer, tokens), babble(2.0, 6)
    own, wide = tokenizer.embed(wave), ahead.embed(wave)
    assert (ahead.dim, ahead.num_codes) == (512 * (tokens + 1), 4 * (tokens + 1))
    assert ahead.lookahead_s == pytest.approx(0.08 * tokens)
    for k in range(tokens + 1):
        part = wide[:, 512 * k : 512 * (k + 1)]
        np.testing.assert_array_equal(part[: len(own) - k], own[k:])
        np.testing.assert_array_equal(part[len(own) - k :], own[-1:].repeat(k, 0))
    np.testing.assert_array_equal(ahead.decode(ahead.encode(wave)), wide)
    check_stream(ahead, wave, 5000)
    check_stream(ahead, wave[: TOKEN + 77], 40)
    cut = 5 * TOKEN
    other = np.concatenate([wave[:cut], babble(2.0, 99)[cut : len(wave)]])
    same = (ahead.embed(other) == wide).all(1)
    assert same[: 5 - tokens].all() and not same[5 - tokens : 5].any()
    assert ahead.embed(wave[:0]).shape == (0, ahead.dim)


def test_tokens_ahead_at_a_higher_rate_are_80_ms_apart(tokenizer):
    rows = np.arange(12)[:, None]
    made = types.SimpleNamespace(
        **{"name": "made", "rate_hz": 50.0, "dim": 1, "num_codes": 1, "batch": 2},
        **{"sample_rate": 16000, "lookahead_s": 0.0, "hash": "h"},
        many=lambda waves: [rows[:n] for n in waves],
    )
    (all_of_it,) = Ahead(made, 1).many([12])
    np.testing.assert_array_equal(all_of_it[:, 1], [*range(4, 12), *[11] * 4])
    for wrong in ({"lookahead_s": np.inf}, {"lookahead_s": 0.4}, {"rate_hz": 80.0}):
        with pytest.raises(ValueError, match="1 tokens ahead of made"):
            Ahead(types.SimpleNamespace(**{**vars(made), **wrong}))
    with pytest.raises(ValueError, match="0 tokens ahead"):
        Ahead(tokenizer, 0)


def test_token_reads_up_to_its_last_sample_and_no_further():
    wave = babble(1.0, 7)
    base = mel_rvq.log_mels(wave)
    for s in (0, 4):
        last = TOKEN * (s + 1) - 1
        for sample, moved in ((last - 20, True), (last + 1, False)):
            other = wave.copy()
            other[sample] += 0.5
            assert (mel_rvq.log_mels(other)[s] != base[s]).any() == moved


def test_books_refine_and_embedding_is_their_sum(tokenizer):
    wave = babble(10.0, 8)
    mels = mel_rvq.log_mels(wave)
    z = ((mels - tokenizer.mean) / tokenizer.std).reshape(len(mels), -1)
    codes = tokenizer.encode(wave)
    rows = tokenizer.codebooks.astype(np.float32)
    partial = [sum(rows[b][codes[:, b]] for b in range(n)) for n in range(5)]
    errors = [np.square(z - p).mean() for p in partial]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.6 * errors[0]
    np.testing.assert_array_equal(tokenizer.embed(wave), partial[-1])


def test_fit_repeats_and_state_file_round_trips(tokenizer, tmp_path):
    again = mel_rvq.fit([babble(20, seed) for seed in range(3)], books=4, size=32)
    assert again.hash == tokenizer.hash
    tokenizer.save(tmp_path / "a.npz")
    again.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    loaded = MelRVQ.load(tmp_path / "a.npz")
    wave = babble(1.0, 9)
    np.testing.assert_array_equal(loaded.embed(wave), tokenizer.embed(wave))
    other = mel_rvq.fit([babble(20, 4)], books=4, size=32)
    assert other.hash != tokenizer.hash


def test_fit_refuses_too_little_sound():
    with pytest.raises(ValueError, match=r"2 clips hold 26 tokens.*at least 20000"):
        mel_rvq.fit([babble(1.0), babble(1.0)], min_tokens=20_000)


def test_state_errors(tokenizer, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.npz.*--fit_tokenizer"):
        MelRVQ.load(tmp_path / "nowhere.npz")
    (tmp_path / "text.npz").write_text("no npz")
    with pytest.raises(ValueError, match="text.npz is not a mel_rvq state"):
        MelRVQ.load(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", mean=np.zeros(64))
    with pytest.raises(ValueError, match="other.npz is not a mel_rvq state"):
        MelRVQ.load(tmp_path / "other.npz")
    tokenizer.save(tmp_path / "state.npz")
    with np.load(tmp_path / "state.npz") as raw:
        fields = {**raw}
    fields["mean"] = fields["mean"] + 1
    np.savez(tmp_path / "changed.npz", **fields)
    with pytest.raises(ValueError, match=f"says hash {tokenizer.hash} but holds"):
        MelRVQ.load(tmp_path / "changed.npz")


@pytest.mark.parametrize(
    ("wave", "error", "message"),
    [
        (np.zeros(2000, np.int16), TypeError, "int16"),
        (np.zeros((2, 2000), np.float32), ValueError, r"\(2, 2000\)"),
        (np.full(2000, np.nan, np.float32), ValueError, "2000 NaN"),
    ],
)
def test_bad_sound_is_refused(tokenizer, wave, error, message):
    with pytest.raises(error, match=message):
        tokenizer.embed(wave)


def test_mel_rvq_is_fast():
    state = MelRVQ(np.zeros(64, "f4"), np.ones(64, "f4"), np.ones((8, 256, 512), "f2"))
    wave = babble(4.0)
    spent = []
    for _ in range(4):
        start = time.process_time()
        state.embed(wave)
        spent.append(time.process_time() - start)
    assert min(spent) / 4.0 < 0.02


def test_lyra_names_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"soundstream_encoder.*--weights"):
        Lyra(tmp_path)
    with pytest.raises(ValueError, match="1 to 46"):
        Lyra(tmp_path, stages=0)


def test_lyra_codebooks_are_the_quantizers(lyra_folder):
    tokenizer = Lyra(lyra_folder)
    with np.load(lyra_folder / "rvq_codebooks.npz") as raw:
        np.testing.assert_array_equal(tokenizer.codebooks, raw["codebooks"])
    codes = tokenizer.encode(babble(0.5))
    decoder = tokenizer._runner("quantizer.tflite", "decode")
    frame = decoder(encoding_indices=codes[7].reshape(46, 1, 1))["output_0"].ravel()
    np.testing.assert_allclose(tokenizer.decode(codes)[7], frame, atol=1e-4)


def test_lyra_stream_and_causality(lyra_folder):
    tokenizer = Lyra(lyra_folder)
    wave = babble(1.5, 3)
    check_stream(tokenizer, wave, 5000)
    check_causal(tokenizer, wave)
    tokens = tokenizer.embed(wave)
    count = -(-len(wave) // TOKEN)
    assert tokens.shape == (4 * count, 64)
    assert mo.to_token_rate(tokens, tokenizer.rate_hz).shape == (count, 256)


def test_lyra_stages_are_a_prefix(lyra_folder):
    wave = babble(0.5, 4)
    few, all_stages = Lyra(lyra_folder, stages=16), Lyra(lyra_folder)
    np.testing.assert_array_equal(few.encode(wave), all_stages.encode(wave)[:, :16])
    assert few.hash != all_stages.hash
