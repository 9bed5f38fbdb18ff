"""A causal tokenizer's stream: sound in any split, tokens as they become complete."""

import numpy as np

from toktalk_jax import motion as mo


def check_wave(samples):
    """Samples as [L] float32.

    Raises:
      TypeError: integer samples, whose scale nobody can know.
      ValueError: not [L], or not finite.
    """
    samples = np.asarray(samples)
    if samples.dtype.kind != "f":
        raise TypeError(
            f"sound is {samples.dtype}; expected float samples in [-1, 1] "
            "(divide 16-bit samples by 32768)"
        )
    if samples.ndim != 1:
        raise ValueError(f"sound is {samples.shape}; expected [L], mono at 16 kHz")
    if not np.isfinite(samples).all():
        bad = int((~np.isfinite(samples)).sum())
        raise ValueError(f"sound holds {bad} NaN or Inf samples of {len(samples)}")
    return samples.astype(np.float32, copy=False)


class TokenStream:
    """Cuts sound into base-token blocks of 1280 samples (80 ms) and encodes each.

    Every block goes through the same call at the same shape, however the sound was
    split, so a stream equals the offline tokens bitwise.
    """

    def __init__(self, encode_block, decode, num_codes):
        """State of one utterance.

        Args:
          encode_block: [1280] f32 -> [s, Q] int32, keeping its own history.
          decode: [s, Q] int32 -> [s, dim] f32.
          num_codes: Q.
        """
        self._encode_block = encode_block
        self._decode = decode
        self._num_codes = num_codes
        self._rest = np.zeros(0, np.float32)

    def push_codes(self, samples):
        """Samples [L] f32, any L -> codes [s, Q] of the blocks that became whole."""
        samples = np.concatenate([self._rest, check_wave(samples)])
        whole = len(samples) // mo.SAMPLES_PER_TOKEN * mo.SAMPLES_PER_TOKEN
        self._rest = samples[whole:].copy()
        blocks = samples[:whole].reshape(-1, mo.SAMPLES_PER_TOKEN)
        codes = [self._encode_block(block) for block in blocks]
        return np.concatenate([np.zeros((0, self._num_codes), np.int32), *codes])

    def flush_codes(self):
        """Codes [s, Q] of what is left, padded with zeros to one block; then empty."""
        if not len(self._rest):
            return np.zeros((0, self._num_codes), np.int32)
        return self.push_codes(
            np.zeros(mo.SAMPLES_PER_TOKEN - len(self._rest), np.float32)
        )

    def push(self, samples):
        """Samples [L] f32 in [-1, 1] at 16 kHz -> token embeddings [s, dim] f32."""
        return self._decode(self.push_codes(samples))

    def flush(self):
        """Token embeddings [s, dim] of the sound's last, partial 80 ms."""
        return self._decode(self.flush_codes())
