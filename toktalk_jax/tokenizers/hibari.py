"""hibari: the decoder states of the text-to-speech model, 80 Hz, 256-d.

A generative speech model's own stream: made while it speaks, before any sound exists.
So there is nothing to tokenise in a recording; the states come with what
`data.corpora.speech` says, and only the performer's corpus holds them.
"""

import numpy as np

from toktalk_jax.tokenizers import weights as files

RATE_HZ = 80.0
DIM = 256


class Hibari:
    """Decoder states as token embeddings; continuous, no codes.

    Attributes:
      hash: 12 hex digits over the synthesizer's model.
    """

    name = "hibari"
    rate_hz = RATE_HZ
    dim = DIM
    num_codes = 0
    batch = 1
    lookahead_s = 0.0  # none on the sound: the states come first

    def __init__(self):
        """Find the synthesizer.

        Raises:
          ImportError: hibari-tts is not installed.
        """
        package = files.need("hibari", self.name)
        self.hash = files.hash_files([package.Hibari().model_path])

    def embed(self, states):
        """States [S, 256] of the spoken clip, as they are.

        Raises:
          ValueError: no states, or sound in their place.
        """
        if states is None or np.ndim(states) != 2 or np.shape(states)[1] != DIM:
            raise ValueError(
                "hibari tokens are the states of the text-to-speech model while it "
                "speaks; a recording has none: use --corpus performer, or another "
                "tokenizer"
            )
        return np.asarray(states, np.float32)
