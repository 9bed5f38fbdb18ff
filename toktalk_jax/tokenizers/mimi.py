"""Mimi, Moshi's codec: 12.5 Hz, 512-d, causal; the paper's base token space.

The embedding is what the codec's decoder reads: `quantizer.decode` of 8 codebooks (one
semantic, seven acoustic), before any upsampling. Weights: hub id kyutai/mimi. Sound
comes at 16 kHz like everybody's and is brought to Mimi's 24 kHz causally.
"""

import numpy as np
import scipy.signal

from toktalk_jax import motion as mo
from toktalk_jax.tokenizers import weights as files
from toktalk_jax.tokenizers.stream import TokenStream, check_wave

HUB = "kyutai/mimi"
CODEBOOKS = 8  # of 32, as Moshi speaks them
FRAME = 1920  # samples of a token at 24 kHz
UP, DOWN = 3, 2
TAPS = 32 * UP  # the filter's delay is half of them: 1 ms
HISTORY = TAPS // UP


class Mimi:
    """Mimi's encoder and quantizer through transformers; no look-ahead.

    Attributes:
      model: `transformers.MimiModel`, in eval mode.
      dim: 512 in the public weights.
      hash: 12 hex digits over the weights and the number of codebooks.
    """

    name = "mimi"
    rate_hz = mo.TOKEN_HZ
    num_codes = CODEBOOKS
    sample_rate = mo.SAMPLE_RATE
    batch = 16
    lookahead_s = 0.0

    def __init__(self, weights=HUB, device="cpu"):
        """Load the weights.

        Args:
          weights: folder with config.json and model.safetensors, or a hub id.
          device: PyTorch's name of it, "cpu" or "cuda".

        Raises:
          FileNotFoundError: no weights there; says which, and where from.
          ImportError: transformers or torch is not installed.
        """
        files.need("torch", self.name)
        transformers = files.need("transformers", self.name)
        wanted = ["config.json", "model.safetensors"]
        folder = files.find(weights, wanted, self.name, f"the hub's {HUB}")
        self.model = files.load_all(transformers.MimiModel, folder).to(device)
        # transformers 4 returns no key-value cache without this, and a stream without
        # one drifts from the second block on.
        self.model.config.use_cache = True
        self.device, self.dim = device, self.model.config.hidden_size
        self.hash = files.hash_files([folder / f for f in wanted], CODEBOOKS)

    def stream(self):
        """A fresh utterance: object with push(samples) and flush() -> [s, 512]."""
        past, padding = None, None
        history = np.zeros(HISTORY, np.float32)

        def encode_block(block):
            nonlocal past, padding, history
            samples = np.concatenate([history, block])
            history = samples[-HISTORY:]
            wave = to_24k(samples)[-FRAME:]
            out = self._encode(
                wave[None],
                use_streaming=True,
                encoder_past_key_values=past,
                padding_cache=padding,
            )
            past, padding = out.encoder_past_key_values, out.padding_cache
            return self._codes(out)[0]

        return TokenStream(encode_block, self.decode, CODEBOOKS)

    def encode(self, wave):
        """Sound [L] f32 at 16 kHz -> codes [S, 8] int32, S = ceil(L / 1280)."""
        return self.many([wave])[0]

    def many(self, waves):
        """Sounds [L] -> codes [S, 8] of each; silence behind one changes none of it."""
        waves = [check_wave(wave) for wave in waves]
        counts = [-(-len(wave) // mo.SAMPLES_PER_TOKEN) for wave in waves]
        if not any(counts):
            return [np.zeros((0, CODEBOOKS), np.int32) for _ in waves]
        longest = max(counts) * mo.SAMPLES_PER_TOKEN
        padded = [to_24k(np.pad(w, (0, longest - len(w)))) for w in waves]
        codes = self._codes(self._encode(np.stack(padded)))
        return [own[:count] for own, count in zip(codes, counts, strict=True)]

    def decode(self, codes):
        """Codes [S, 8] -> embeddings [S, 512] f32: P_s E_0 + P_a (E_1 + ... + E_7)."""
        import torch

        if not len(codes):
            return np.zeros((0, self.dim), np.float32)
        there = torch.from_numpy(np.ascontiguousarray(codes.T[None]).astype(np.int64))
        with torch.inference_mode():
            out = self.model.quantizer.decode(there.to(self.device))
        return out[0].T.float().cpu().numpy()

    def embed(self, wave):
        """Sound [L] f32 in [-1, 1] at 16 kHz -> embeddings [S, 512] f32 at 12.5 Hz."""
        return self.decode(self.encode(wave))

    def _encode(self, waves, **state):
        import torch

        there = torch.from_numpy(waves)[:, None].to(self.device)
        with torch.inference_mode():
            return self.model.encode(there, num_quantizers=CODEBOOKS, **state)

    def _codes(self, out):
        return out.audio_codes.transpose(1, 2).cpu().numpy().astype(np.int32)


def to_24k(wave):
    """16 kHz to 24 kHz by a causal filter, 1 ms late: [L] f32 -> [1.5 L] f32."""
    taps = UP * scipy.signal.firwin(TAPS, 0.95 / UP, window=("kaiser", 8.0))
    out = scipy.signal.upfirdn(taps, wave.astype(np.float64), UP, DOWN)
    return out[: len(wave) * UP // DOWN].astype(np.float32)
