"""Tokens as a live stream has them, of a tokenizer that looks ahead.

For each chunk the sound so far is encoded anew and only the chunk's tokens are kept, so
no token reads a sample past its chunk. What a live system must do with the tokenizers
of Whisper, wav2vec 2, HuBERT, CosyVoice2 and GLM; the cost grows with the sound.
"""

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.tokenizers.stream import check_wave


class Causal:
    """A tokenizer behind the same face, re-encoding the prefix per chunk.

    Attributes:
      name: the tokenizer's own with ":causal" behind it.
      lookahead_s: of a chunk's first token: the rest of the chunk.
    """

    def __init__(self, tokenizer, chunk_s=0.4):
        """Wrap a tokenizer.

        Args:
          tokenizer: one that reads sound and looks ahead.
          chunk_s: seconds per chunk, whole base tokens of 80 ms.

        Raises:
          ValueError: it does not look ahead, or no such chunk is possible.
        """
        if tokenizer.lookahead_s == 0:
            raise ValueError(
                f"{tokenizer.name} does not look ahead: its tokens are causal as they "
                "are; leave --causal out"
            )
        self.chunk = mo.chunk_frames(chunk_s) * mo.SAMPLES_PER_FRAME
        self.inner = tokenizer
        self.name = f"{tokenizer.name}:causal"
        self.rate_hz, self.dim = tokenizer.rate_hz, tokenizer.dim
        self.num_codes, self.sample_rate = tokenizer.num_codes, tokenizer.sample_rate
        self.batch = 1
        self.lookahead_s = self.chunk / mo.SAMPLE_RATE
        self.hash = f"{tokenizer.hash}-{self.chunk}"

    def stream(self):
        """A fresh utterance: object with push(samples) and flush() -> [s, A]."""
        return PrefixStream(self)

    def encode(self, wave):
        """Sound [L] f32 at 16 kHz -> codes [S, Q] int32."""
        return self._by_chunk(wave, self.inner.encode)

    def decode(self, codes):
        """Codes [S, Q] -> embeddings [S, A] f32."""
        return self.inner.decode(codes)

    def embed(self, wave):
        """Sound [L] f32 in [-1, 1] at 16 kHz -> embeddings [S, A] f32."""
        return self._by_chunk(wave, self.inner.embed)

    def _by_chunk(self, wave, tokens_of):
        wave, out = check_wave(wave), []
        for end in range(self.chunk, len(wave) + self.chunk, self.chunk):
            out.append(tokens_of(wave[:end])[self._count(end - self.chunk) :])
        return np.concatenate(out) if out else tokens_of(wave)

    def _count(self, samples):
        return round(samples / mo.SAMPLE_RATE * self.rate_hz)


class PrefixStream:
    """One utterance: keeps the sound, gives each chunk's tokens when it is whole."""

    def __init__(self, causal):
        """Begin; `causal` is a `Causal`."""
        self._causal, self._heard, self._done = causal, np.zeros(0, np.float32), 0

    def push(self, samples):
        """Samples [L] f32, any L -> embeddings [s, A] of chunks that became whole."""
        self._heard = np.concatenate([self._heard, check_wave(samples)])
        whole = len(self._heard) // self._causal.chunk * self._causal.chunk
        return self._up_to(whole)

    def flush(self):
        """Embeddings [s, A] of the last, partial chunk; then the utterance is over."""
        out = self._up_to(len(self._heard))
        self._heard, self._done = np.zeros(0, np.float32), 0
        return out

    def _up_to(self, end):
        causal, out = self._causal, [np.zeros((0, self._causal.dim), np.float32)]
        while self._done < end:
            stop = min(self._done + causal.chunk, end)
            tokens = causal.inner.embed(self._heard[:stop])
            out.append(tokens[causal._count(self._done) :])
            self._done = stop
        return np.concatenate(out)
