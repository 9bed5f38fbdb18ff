"""The procedural performer: rules from sound and phonemes to faces, nothing learned.

It is told the phonemes and hears the whole clip, which no other row does; it knows no
speaker. On the performer's own corpus it is the truth but for style and chance.
"""

import numpy as np

from toktalk_jax.data.corpora import performer

HEAD = "stand_in"  # whose expressions the rules move


def predict(audio, phonemes):
    """Motion [T, 56] of a clip in the performer's neutral style.

    Args:
      audio: [L] int16 at 16 kHz, or None; phonemes: (start s, end s, symbol), or empty.

    Raises:
      ValueError: what the rules need is not known of this clip.
    """
    if audio is None:
        raise ValueError("the rules need its sound; export with --with_audio")
    if not phonemes:
        raise ValueError("the rules need its phonemes, and none are known")
    return performer.perform(audio.astype(np.float64) / 32768, phonemes)
