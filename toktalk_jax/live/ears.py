"""From what a client sends to base tokens, message by message."""

import numpy as np

from toktalk_jax import motion as mo


class Ear:
    """Sound of one utterance, at any rate, through a causal tokenizer's stream."""

    def __init__(self, tokenizer, rate_hz):
        """Begin; sound will come at `rate_hz`."""
        self._stream = tokenizer.stream()
        self._to_base = mo.ToTokenRate(tokenizer.rate_hz)
        self._resample, self._samples = None, 0
        if rate_hz != mo.SAMPLE_RATE:
            import soxr

            self._resample = soxr.ResampleStream(rate_hz, mo.SAMPLE_RATE, 1)

    def hear(self, samples, last):
        """Samples [L] f32 -> base tokens [s, A]; `last` ends the utterance."""
        if self._resample is not None:
            samples = self._resample.resample_chunk(samples, last=last)
        self._samples += len(samples)
        tokens = self._stream.push(samples)
        if last:
            tokens = np.concatenate([tokens, self._stream.flush()])
        return self._to_base.push(tokens)

    @property
    def frames(self):
        """Of the sound heard so far; the last may be partial."""
        return -(-self._samples // mo.SAMPLES_PER_FRAME)


class Stack:
    """Tokens of one utterance at k times the base rate, k to a base token.

    Attributes:
      frames: of the whole base tokens heard so far.
    """

    def __init__(self, stack):
        """Begin; `stack` tokens that come are one base token."""
        self.frames = 0
        self._to_base = mo.ToTokenRate(stack * mo.TOKEN_HZ)

    def hear(self, tokens, last):
        """Tokens [s, A / k] -> base tokens [s', A]; what fills none is kept."""
        tokens = self._to_base.push(tokens)
        self.frames += len(tokens) * mo.FRAMES_PER_TOKEN
        return tokens
