"""Lyra v2 (SoundStream): a real residual-vector-quantised speech codec, 50 Hz, 64-d.

Source: the public google/lyra repository (Apache-2.0), folder lyra/model_coeffs. One
frame is 320 samples; its embedding is the sum of the first `stages` codebook rows.
"""

import functools
import hashlib
import pathlib

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.tokenizers.stream import TokenStream

FRAME = 320
STAGES = 46
ENCODER = "soundstream_encoder.tflite"
QUANTIZER = "quantizer.tflite"


class Lyra:
    """Lyra's encoder and quantizer through LiteRT; causal, no look-ahead.

    Attributes:
      codebooks: [46, 16, 64] f32.
      num_codes: codes per token, the stages used.
      hash: 12 hex digits over both networks and the number of stages.
    """

    name = "lyra"
    rate_hz = 50.0
    dim = 64
    sample_rate = mo.SAMPLE_RATE
    batch = 1
    lookahead_s = 0.0

    def __init__(self, folder, stages=STAGES):
        """Load the weights.

        Args:
          folder: holds soundstream_encoder.tflite and quantizer.tflite.
          stages: codebooks used, 1 to 46; Lyra's own settings are 16, 30 and 46.

        Raises:
          FileNotFoundError: a weights file is missing; says which, and where from.
          ImportError: ai-edge-litert is not installed.
          ValueError: stages out of range.
        """
        if not 1 <= stages <= STAGES:
            raise ValueError(f"lyra has 1 to {STAGES} stages; {stages} were asked for")
        self.folder = pathlib.Path(folder)
        self.stages = self.num_codes = stages
        for name in (ENCODER, QUANTIZER):
            if not (self.folder / name).is_file():
                raise FileNotFoundError(
                    f"lyra needs {self.folder / name}, which is not there; take it "
                    "from the public repository google/lyra, folder "
                    "lyra/model_coeffs, and name the folder with --weights"
                )
        self.codebooks = self._read_codebooks()
        digest = hashlib.sha256(f"stages {stages}".encode())
        for name in (ENCODER, QUANTIZER):
            digest.update((self.folder / name).read_bytes())
        self.hash = digest.hexdigest()[:12]

    def stream(self):
        """A fresh utterance: object with push(samples) and flush() -> [s, 64]."""
        # The encoder keeps its state in TFLite variables: one interpreter, one voice.
        encoder = self._runner(ENCODER)
        quantizer = self._runner(QUANTIZER, "encode")
        stages = np.array(self.stages, np.int32)

        def encode_block(block):
            codes = []
            for frame in block.reshape(-1, 1, FRAME):
                features = encoder(input_audio=frame)["output_0"]
                out = quantizer(input_frames=features, num_quantizers=stages)
                codes.append(out["output_0"].reshape(STAGES)[: self.stages])
            return np.stack(codes).astype(np.int32)

        return TokenStream(encode_block, self.decode, self.stages)

    def encode(self, wave):
        """Sound [L] f32 in [-1, 1] -> codes [S, stages] int32, S = 4 ceil(L / 1280)."""
        stream = self.stream()
        return np.concatenate([stream.push_codes(wave), stream.flush_codes()])

    def decode(self, codes):
        """Codes [S, stages] -> embeddings [S, 64] f32: the sum of codebook rows."""
        total = np.zeros((len(codes), self.dim), np.float32)
        for stage in range(self.stages):
            total += self.codebooks[stage][codes[:, stage]]
        return total

    def embed(self, wave):
        """Sound [L] f32 in [-1, 1] at 16 kHz -> embeddings [S, 64] f32 at 50 Hz."""
        return self.decode(self.encode(wave))

    def _runner(self, name, signature=None):
        interpreter = _litert().Interpreter(str(self.folder / name))
        return interpreter.get_signature_runner(signature)

    def _read_codebooks(self):
        """[46, 16, 64] f32: the quantizer decodes each code alone (20 ms in all)."""
        decoder = self._runner(QUANTIZER, "decode")
        books = np.empty((STAGES, 16, self.dim), np.float32)
        for stage in range(STAGES):
            for code in range(16):
                one = np.full((STAGES, 1, 1), -1, np.int32)  # -1 leaves a stage out
                one[stage] = code
                books[stage, code] = decoder(encoding_indices=one)["output_0"].ravel()
        return books


@functools.cache
def _litert():
    try:
        from ai_edge_litert import interpreter
    except ImportError as error:
        raise ImportError(
            "the lyra tokenizer runs its networks with LiteRT: "
            "pip install ai-edge-litert"
        ) from error
    return interpreter
