"""Text to base tokens for the face, and to its sound: states first, the wave beside.

The synthesizer's decoder makes states before any sound exists. The face is solved from
them while the wave is still decoded, so both are ready after the longer of the two, not
after their sum (paper Eq. 7).
"""

import dataclasses

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.data.corpora import speech
from toktalk_jax.live import binary
from toktalk_jax.tokenizers import hibari


def warm_up():
    """Load the voice and its dictionaries: seconds, once in a process."""
    mouth = Mouth(0)
    for symbols in sentences("Hello."):
        _, uttered = mouth.utter(symbols)
        mouth.sound(uttered, 0)


def sentences(text):
    """Symbols of each sentence that can be spoken; none of it is told in an error.

    Raises:
      RuntimeError: the synthesizer fails on it, as on numbers of 37 digits.
    """
    try:
        return speech.sentences(text)
    except Exception as error:  # its message may quote what a client said
        raise RuntimeError(f"{type(error).__name__} over a text") from None


class Mouth:
    """Text of one utterance.

    Attributes:
      frames: of the whole base tokens so far; states: their number.
    """

    def __init__(self, seed):
        """Begin; seed: of the sound's noise."""
        self.frames, self.states = 0, 0
        self._to_base = mo.ToTokenRate(hibari.RATE_HZ)
        self._rng, self._samples = np.random.default_rng(seed), 0

    @property
    def seconds(self):
        """Of media whose states are there."""
        return self.states / hibari.RATE_HZ

    def utter(self, symbols):
        """One of `sentences`: (base tokens [s, 256], `speech.Uttered` for `sound`)."""
        uttered = speech.utter(symbols)
        return self.hear(uttered.states, False), uttered

    def hear(self, states, last):
        """States [S, 256] -> base tokens [s, 256]; what fills none is kept."""
        self.states += len(states)
        tokens = self._to_base.push(states)
        self.frames += len(tokens) * mo.FRAMES_PER_TOKEN
        return tokens

    def sound(self, uttered, utterance):
        """`binary.Sound` messages of a sentence; sentences in their order."""
        wave = speech.wave_of(uttered, self._rng)
        first, self._samples = self._samples, self._samples + len(wave)
        return binary.pieces(wave, utterance, first, speech.WAVE_HZ)


@dataclasses.dataclass
class Said:
    """When an utterance of text reached what, ms since ready; None: not yet.

    Attributes:
      came: its first say; states: of the first sentence; sound, solved: its first
        sound and frames, ready to send; sent: the first frames.
    """

    utterance: int
    came: float
    states: float | None = None
    sound: float | None = None
    solved: float | None = None
    sent: float | None = None

    def reach(self, what, now):
        """Note a point; true for the one that makes all known."""
        if getattr(self, what) is not None:
            return False
        setattr(self, what, now)
        return None not in (self.states, self.sound, self.solved, self.sent)

    def wire(self):
        """The latencies of paper Eq. 7: TTFTB + max(audio, animation)."""
        return {
            "utterance": self.utterance,
            "ttftb_ms": self.states - self.came,
            "audio_ms": self.sound - self.states,
            "animation_ms": self.solved - self.states,
            "first_frame_ms": self.sent - self.came,
        }
