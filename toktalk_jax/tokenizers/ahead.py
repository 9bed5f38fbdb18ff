"""Tokens with the next ones beside them: look-ahead that costs a talker nothing.

An audio language model runs ahead of what it plays, so the tokens after a frame are
known before the frame is due. They come as further channels, own token first, and not
as a shift: motion stays aligned with its sound. From a microphone the first frame waits
80 ms for each.
"""

import numpy as np

from toktalk_jax import motion as mo

# In a tokenizer's name, before the number of tokens.
AHEAD = ":ahead"


class Ahead:
    """A tokenizer behind the same face, its tokens widened by those that follow.

    Past the end of the sound the last token stands for what does not come.

    Attributes:
      name: the tokenizer's own with ":ahead" and the number of tokens behind it.
      dim, num_codes: the tokenizer's own, once more for each token ahead.
      lookahead_s: 80 ms for each.
    """

    def __init__(self, tokenizer, tokens=1):
        """Wrap a tokenizer.

        Args:
          tokenizer: one that reads sound, and none of it ahead.
          tokens: how many tokens of 80 ms to see ahead.

        Raises:
          ValueError: it looks ahead itself, its rate is no multiple of 12.5 Hz, or no
            such number.
        """
        each, rest = divmod(tokenizer.rate_hz, mo.TOKEN_HZ)
        if tokens < 1 or rest or tokenizer.lookahead_s:
            raise ValueError(
                f"{tokens} tokens ahead of {tokenizer.name}, which looks "
                f"{tokenizer.lookahead_s} s ahead itself and makes "
                f"{tokenizer.rate_hz:g} tokens a second; expected at least one, of a "
                f"tokenizer at a multiple of {mo.TOKEN_HZ} Hz that does not look ahead"
            )
        self.inner, self.tokens, self.shift = tokenizer, tokens, int(each)
        self.name = f"{tokenizer.name}{AHEAD}{tokens}"
        self.rate_hz, self.sample_rate = tokenizer.rate_hz, tokenizer.sample_rate
        self.dim = tokenizer.dim * (tokens + 1)
        self.num_codes = tokenizer.num_codes * (tokens + 1)
        self.batch = tokenizer.batch
        self.lookahead_s = tokens / mo.TOKEN_HZ
        self.hash = f"{tokenizer.hash}-ahead{tokens}"

    def stream(self):
        """A fresh utterance: object with push(samples) and flush() -> [s, A]."""
        return AheadStream(self)

    def encode(self, wave):
        """Sound [L] f32 at 16 kHz -> codes [S, Q] int32."""
        return self.beside(self.inner.encode(wave))

    def decode(self, codes):
        """Codes [S, Q] -> embeddings [S, A] f32."""
        each = np.split(codes, self.tokens + 1, axis=1)
        return np.concatenate([self.inner.decode(part) for part in each], axis=1)

    def embed(self, wave):
        """Sound [L] f32 in [-1, 1] at 16 kHz -> embeddings [S, A] f32."""
        return self.beside(self.inner.embed(wave))

    def many(self, waves):
        """List of what `encode` (with codes) or `embed` gives of each."""
        return [self.beside(rows) for rows in self.inner.many(waves)]

    def beside(self, rows):
        """Rows [S, Q or A] with those ahead of each beside it, [S, (tokens + 1) Q]."""
        if not len(rows):
            return np.tile(rows, self.tokens + 1)
        at = np.arange(len(rows))[:, None] + self.shift * np.arange(self.tokens + 1)
        return rows[np.minimum(at, len(rows) - 1)].reshape(len(rows), -1)


class AheadStream:
    """One utterance: holds tokens back until those ahead of them have come."""

    def __init__(self, ahead):
        """Begin; `ahead` is an `Ahead`."""
        self._ahead, self._source = ahead, ahead.inner.stream()
        self._held = np.zeros((0, ahead.inner.dim), np.float32)

    def push(self, samples):
        """Samples [L] f32, any L -> embeddings [s, A] whose tokens ahead are known."""
        self._held = np.concatenate([self._held, self._source.push(samples)])
        ready = max(len(self._held) - self._ahead.shift * self._ahead.tokens, 0)
        out = self._ahead.beside(self._held)[:ready]
        self._held = self._held[ready:]
        return out

    def flush(self):
        """Embeddings [s, A] of the rest; then the utterance is over."""
        rest = np.concatenate([self._held, self._source.flush()])
        self._held = rest[:0]
        return self._ahead.beside(rest)
