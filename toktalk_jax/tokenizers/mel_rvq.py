"""mel_rvq: causal log-mel and residual k-means, a tokenizer that needs no weights.

One token is 80 ms of sound: 8 hops of 10 ms x 64 log-mels = 512 numbers, standardised,
then eight residual codebooks of 256. Each 25 ms frame ends at its hop, so token s reads
no sample after 1280 (s + 1). Plain NumPy; the state is one hashed npz.
"""

import dataclasses
import functools
import hashlib
import pathlib
import zipfile

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.tokenizers.stream import TokenStream, check_wave

HOP = 160
WINDOW = 400
FFT = 512
MELS = 64
HOPS_PER_TOKEN = mo.SAMPLES_PER_TOKEN // HOP
DIM = MELS * HOPS_PER_TOKEN
HISTORY = WINDOW - HOP  # samples of the past that a token's first frame reads
LOW_HZ, HIGH_HZ = 40.0, 7600.0
FLOOR = 1e-7  # -70 dB of a full-scale sine: under a room's noise, above digital silence


@dataclasses.dataclass(frozen=True, eq=False)
class MelRVQ:
    """The tokenizer and its fitted state.

    Attributes:
      mean, std: [64] of the log-mels of the train split.
      codebooks: [books, size, 512] f16, in standardised units: an embedding is the sum
        of one row per book, in f32, and is *not* brought back to log-mels.
    """

    mean: np.ndarray
    std: np.ndarray
    codebooks: np.ndarray

    name = "mel_rvq"
    rate_hz = mo.TOKEN_HZ
    dim = DIM
    sample_rate = mo.SAMPLE_RATE
    batch = 1
    lookahead_s = 0.0

    @property
    def num_codes(self):
        """Codes per token, one per codebook."""
        return len(self.codebooks)

    @functools.cached_property
    def _rows(self):
        return self.codebooks.astype(np.float32)

    @functools.cached_property
    def _half_norms(self):
        return 0.5 * np.square(self._rows).sum(-1)

    @functools.cached_property
    def hash(self):
        """12 hex digits that identify the state."""
        layout = (HOP, WINDOW, FFT, MELS, HOPS_PER_TOKEN, LOW_HZ, HIGH_HZ, FLOOR)
        digest = hashlib.sha256(repr(layout).encode())
        for value in _canonical(self).values():
            digest.update(value.tobytes())
        return digest.hexdigest()[:12]

    def stream(self):
        """A fresh utterance: object with push(samples) and flush() -> [s, 512]."""
        history = np.zeros(HISTORY, np.float32)

        def encode_block(block):
            nonlocal history
            samples = np.concatenate([history, block])
            history = samples[-HISTORY:]
            return self._quantise(self._standardise(log_mel_token(samples)))[None]

        return TokenStream(encode_block, self.decode, len(self.codebooks))

    def encode(self, wave):
        """Sound [L] f32 in [-1, 1] -> codes [S, books] int32, S = ceil(L / 1280)."""
        stream = self.stream()
        return np.concatenate([stream.push_codes(wave), stream.flush_codes()])

    def decode(self, codes):
        """Codes [S, books] -> embeddings [S, 512] f32: the sum of codebook rows."""
        total = np.zeros((len(codes), DIM), np.float32)
        for book, rows in enumerate(self._rows):
            total += rows[codes[:, book]]
        return total

    def embed(self, wave):
        """Sound [L] f32 in [-1, 1] at 16 kHz -> embeddings [S, 512] f32 at 12.5 Hz."""
        return self.decode(self.encode(wave))

    def save(self, path):
        """Write the state as one npz; equal states give equal bytes."""
        with open(path, "wb") as file:
            np.savez_compressed(file, **_canonical(self), hash=np.array(self.hash))

    @classmethod
    def load(cls, path):
        """Read a state.

        Raises:
          FileNotFoundError: no such file.
          ValueError: not a state of this tokenizer, or its hash does not fit.
        """
        path = pathlib.Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"no tokenizer state at {path}; mel_rvq's codebooks are made by "
                "`python -m tools.export_tokens --fit_tokenizer`, lie beside every "
                "dataset and checkpoint, and are named by --tokenizer_state"
            )
        try:
            with np.load(path) as raw:
                state = cls(raw["mean"], raw["std"], raw["codebooks"])
                stored = str(raw["hash"])
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path} is not a mel_rvq state (an npz with mean, std, codebooks and "
                f"hash): {error}"
            ) from error
        if state.codebooks.ndim != 3 or state.codebooks.shape[2] != DIM:
            raise ValueError(
                f"{path} has codebooks of {state.codebooks.shape}; expected "
                f"[books, size, {DIM}]"
            )
        if state.hash != stored:
            raise ValueError(f"{path} says hash {stored} but holds {state.hash}")
        return state

    def _standardise(self, token):
        return ((token - self.mean) / self.std).reshape(*token.shape[:-2], DIM)

    def _quantise(self, residual):
        codes = np.empty(len(self.codebooks), np.int32)
        for book, rows in enumerate(self._rows):
            codes[book] = np.argmax(rows @ residual - self._half_norms[book])
            residual = residual - rows[codes[book]]
        return codes


def _canonical(state):
    return {
        "mean": np.ascontiguousarray(state.mean, "<f4"),
        "std": np.ascontiguousarray(state.std, "<f4"),
        "codebooks": np.ascontiguousarray(state.codebooks, "<f2"),
    }


@functools.cache
def _filterbank():
    """[257, 64] triangles, evenly spaced on the mel scale (O'Shaughnessy's formula)."""
    ends = 2595 * np.log10(1 + np.array([LOW_HZ, HIGH_HZ]) / 700)
    mels = np.linspace(*ends, MELS + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    bins = np.arange(FFT // 2 + 1) * mo.SAMPLE_RATE / FFT
    rising = (bins[:, None] - edges[None, :-2]) / np.diff(edges)[None, :-1]
    falling = (edges[None, 2:] - bins[:, None]) / np.diff(edges)[None, 1:]
    # A low band is narrower than a bin: without a floor on its area it hears nothing.
    weights = np.maximum(np.minimum(rising, falling), 0)
    nearest = np.argmin(np.abs(bins[:, None] - edges[None, 1:-1]), 0)
    empty = weights.sum(0) < 1e-3
    weights[nearest[empty], np.flatnonzero(empty)] = 1.0
    return (weights / weights.sum(0)).astype(np.float32)


@functools.cache
def _window():
    window = np.hanning(WINDOW + 2)[1:-1]
    # Scaled so that a full-scale sine has power 1 in its bin.
    return (window / (window.sum() / 2)).astype(np.float32)


def log_mel_token(samples):
    """Log-mels of one token.

    Args:
      samples: [240 + 1280] f32, the token's sound after 15 ms of history.

    Returns:
      [8, 64] f32, natural log of mel power over a floor of -70 dB full scale.
    """
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    spectrum = np.fft.rfft(frames * _window()[None], FFT)
    power = spectrum.real**2 + spectrum.imag**2
    return np.log(power.astype(np.float32) @ _filterbank() + np.float32(FLOOR))


def log_mels(wave):
    """Sound [L] f32 at 16 kHz -> [ceil(L / 1280), 8, 64] log-mels, zeros before it."""
    wave = check_wave(wave)
    count = -(-len(wave) // mo.SAMPLES_PER_TOKEN)
    padded = np.zeros(HISTORY + count * mo.SAMPLES_PER_TOKEN, np.float32)
    padded[HISTORY : HISTORY + len(wave)] = wave
    tokens = np.zeros((count, HOPS_PER_TOKEN, MELS), np.float32)
    for s in range(count):
        start = s * mo.SAMPLES_PER_TOKEN
        tokens[s] = log_mel_token(padded[start:][: HISTORY + mo.SAMPLES_PER_TOKEN])
    return tokens


def fit(
    waves,
    books=8,
    size=256,
    iterations=12,
    seed=0,
    min_tokens=0,
    max_tokens=60_000,
):
    """Fit standardisation and codebooks; the same waves give the same state.

    Args:
      waves: iterable of [L] f32 train clips at 16 kHz.
      books, size: residual codebooks and rows in each.
      iterations: Lloyd steps per book.
      min_tokens: refuse to fit on fewer.
      max_tokens: a seeded sample of so many tokens is fitted.

    Returns:
      A `MelRVQ`.

    Raises:
      ValueError: fewer tokens than `min_tokens`, or than rows in a codebook.
    """
    tokens = [log_mels(wave) for wave in waves]
    count, least = sum(len(t) for t in tokens), max(min_tokens, size)
    if count < least:
        raise ValueError(
            f"{len(tokens)} clips hold {count} tokens ({count / mo.TOKEN_HZ:.0f} s); "
            f"codebooks are fitted on at least {least} ({least / mo.TOKEN_HZ:.0f} s): "
            "bring more sound, or use an existing state (--tokenizer_state)"
        )
    rng = np.random.default_rng(seed)
    tokens = np.concatenate(tokens)
    if count > max_tokens:
        tokens = tokens[np.sort(rng.choice(count, max_tokens, replace=False))]
    mean = tokens.mean((0, 1), dtype=np.float64).astype(np.float32)
    std = np.maximum(tokens.std((0, 1), dtype=np.float64), 1e-3).astype(np.float32)
    residual = ((tokens - mean) / std).reshape(len(tokens), DIM)
    codebooks = np.zeros((books, size, DIM), np.float16)
    for book in range(books):
        centres = _kmeans(residual, size, iterations, rng)
        codebooks[book] = centres.astype(np.float16)
        # The rounded rows are what the encoder subtracts; so does the fit.
        rows = codebooks[book].astype(np.float32)
        residual = residual - rows[_nearest(residual, rows)]
    return MelRVQ(mean, std, codebooks)


def _nearest(points, centres):
    half_norms = 0.5 * np.square(centres).sum(1)
    out = np.empty(len(points), np.intp)
    for start in range(0, len(points), 8192):
        block = points[start : start + 8192]
        out[start : start + 8192] = np.argmax(block @ centres.T - half_norms, 1)
    return out


def _kmeans(points, size, iterations, rng):
    """Lloyd's k-means from random points. Returns [size, D] f32.

    k-means++ spends its seeds on outliers: from the third book on it used a third of
    the rows and ended with more error on held-out speech.
    """
    centres = points[rng.choice(len(points), size, replace=False)].copy()
    for _ in range(iterations):
        nearest = _nearest(points, centres)
        counts = np.bincount(nearest, minlength=size)
        order = np.argsort(nearest, kind="stable")
        filled = np.flatnonzero(counts)
        starts = np.concatenate([[0], np.cumsum(counts[filled])[:-1]])
        sums = np.add.reduceat(points[order], starts, axis=0)
        centres[filled] = sums / counts[filled, None]
        empty = np.flatnonzero(counts == 0)
        if len(empty):
            # A row that nothing chose moves to a point that is served worst.
            error = np.square(points - centres[nearest]).sum(1)
            centres[empty] = points[np.argsort(-error, kind="stable")[: len(empty)]]
    return centres
