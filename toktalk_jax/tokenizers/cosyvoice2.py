"""CosyVoice2: S3 tokenizer v2 codes (25 Hz, 6561) as rows of the flow decoder's input.

The tokenizer has no up-projection of its own, so the embedding is the row of
`input_embedding.weight` [6561, 512] in CosyVoice2's `flow.pt`: what its audio decoder
reads. Weights: hub id FunAudioLLM/CosyVoice2-0.5B (speech_tokenizer_v2.onnx, flow.pt).
The tokenizer attends both ways over windows of 30 s.
"""

import math

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.tokenizers import weights as files
from toktalk_jax.tokenizers.stream import check_wave

HUB = "FunAudioLLM/CosyVoice2-0.5B"
NETWORK, FLOW = "speech_tokenizer_v2.onnx", "flow.pt"
TABLE = "input_embedding.weight"
MELS = 128
CODES = 6561  # 3 to the 8
PER_TOKEN = 2  # codes per base token
WINDOW, OVERLAP = 30 * mo.SAMPLE_RATE, 4 * mo.SAMPLE_RATE  # as s3tokenizer cuts


class CosyVoice2:
    """S3 tokenizer v2 through ONNX Runtime, and the decoder's table.

    Attributes:
      table: [6561, 512] f32.
      hash: 12 hex digits over both files.
    """

    name = "cosyvoice2"
    rate_hz = 25.0
    num_codes = 1
    sample_rate = mo.SAMPLE_RATE
    batch = 1
    lookahead_s = math.inf

    def __init__(self, weights=HUB, device="cpu"):
        """Load the weights.

        Args:
          weights: folder with speech_tokenizer_v2.onnx and flow.pt, or a hub id.
          device: "cpu" or "cuda" (the latter needs onnxruntime-gpu).

        Raises:
          FileNotFoundError: no weights there; says which, and where from.
          ImportError: onnxruntime, transformers or torch is not installed.
          ValueError: flow.pt without its table.
        """
        folder = files.find(weights, [NETWORK, FLOW], self.name, f"the hub's {HUB}")
        self.session = _session(folder / NETWORK, device)
        extractor = files.need("transformers", self.name).WhisperFeatureExtractor
        self.features = extractor(feature_size=MELS)
        self.table = read_table(folder / FLOW, self.name, CODES)
        self.dim = self.table.shape[1]
        self.hash = files.hash_files([folder / NETWORK, folder / FLOW])

    def encode(self, wave):
        """Sound [L] f32 at 16 kHz -> codes [2 ceil(L / 1280), 1] int32."""
        wave = check_wave(wave)
        wave = np.pad(wave, (0, -len(wave) % mo.SAMPLES_PER_TOKEN))
        out, half = [np.zeros(0, np.int32)], OVERLAP // 2
        for start in range(
            0, max(len(wave) - OVERLAP, min(len(wave), 1)), WINDOW - OVERLAP
        ):
            piece = wave[start : start + WINDOW]
            codes = self._window(piece)
            # Two windows share four seconds; each gives the half that it knows more of.
            first = 0 if start == 0 else half
            last = len(piece) - (0 if start + WINDOW >= len(wave) else half)
            out.append(codes[_count(first) : _count(last)])
        return np.concatenate(out)[:, None]

    def decode(self, codes):
        """Codes [S, 1] -> the decoder's input embeddings [S, 512] f32."""
        return self.table[codes[:, 0]]

    def embed(self, wave):
        """Sound [L] f32 in [-1, 1] at 16 kHz -> embeddings [S, 512] f32 at 25 Hz."""
        return self.decode(self.encode(wave))

    def _window(self, piece):
        mels = self.features(
            piece,
            sampling_rate=mo.SAMPLE_RATE,
            padding="do_not_pad",
            truncation=False,
            return_tensors="np",
        )["input_features"].astype(np.float32)
        names = [i.name for i in self.session.get_inputs()]
        length = np.array([mels.shape[2]], np.int32)
        codes = self.session.run(None, dict(zip(names, (mels, length), strict=True)))
        codes = np.asarray(codes[0]).reshape(-1).astype(np.int32)
        if len(codes) != (wanted := _count(len(piece))):
            raise ValueError(
                f"{NETWORK} gave {len(codes)} codes for {len(piece)} samples; expected "
                f"{wanted} (25 a second): is it the 25 Hz tokenizer?"
            )
        return codes


def _count(samples):
    return samples * PER_TOKEN // mo.SAMPLES_PER_TOKEN


def _session(path, device):
    onnxruntime = files.need("onnxruntime", "cosyvoice2")
    options = onnxruntime.SessionOptions()
    # One thread: the order of sums, and so every code, is the same in each run.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    if device != "cpu":
        providers.insert(0, "CUDAExecutionProvider")
    return onnxruntime.InferenceSession(str(path), options, providers=providers)


def read_table(path, tokenizer, codes):
    """`input_embedding.weight` [codes, width] f32 of an audio decoder's `flow.pt`.

    Only tensors are read; no code in the file runs.

    Raises:
      ValueError: not a file of tensors, or no such table in it.
    """
    torch = files.need("torch", tokenizer)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever a broken or hostile pickle raises
        raise ValueError(
            f"{path} is not a PyTorch file of plain tensors ({type(error).__name__})"
        ) from error
    table = state.get(TABLE) if isinstance(state, dict) else None
    if table is None or table.ndim != 2 or len(table) < codes:
        came = "none" if table is None else list(table.shape)
        raise ValueError(
            f"{path} holds no {TABLE} of [{codes}, width] ({came}); expected the flow "
            f"decoder's checkpoint of {tokenizer}"
        )
    return table.float().numpy().copy()
