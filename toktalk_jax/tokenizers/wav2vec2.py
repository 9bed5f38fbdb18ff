"""wav2vec 2.0 and HuBERT: 50 Hz features of the last layer, 768-d at base size.

They attend to the whole clip: not streaming unless the prefix is re-encoded
(`prefix.Causal`). Table 5's ASR features.
"""

import math

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.tokenizers import weights as files
from toktalk_jax.tokenizers.stream import check_wave

HUBS = {
    "wav2vec2": "facebook/wav2vec2-base-960h",
    "hubert": "facebook/hubert-base-ls960",
}
STRIDE = 320
RECEPTIVE = 400  # samples that one output of the convolutions reads


class SpeechFeatures:
    """The encoder through transformers.

    Attributes:
      dim: the model's hidden size.
      hash: 12 hex digits over the weights and the layout of the input.
    """

    rate_hz = 50.0
    num_codes = 0
    sample_rate = mo.SAMPLE_RATE
    batch = 16
    lookahead_s = math.inf

    def __init__(self, name, weights="", device="cpu"):
        """Load the weights.

        Args:
          name: "wav2vec2" or "hubert".
          weights: folder with config.json, preprocessor_config.json and
            model.safetensors or pytorch_model.bin, or a hub id; "": the public base.
          device: PyTorch's name of it.

        Raises:
          FileNotFoundError: no weights there; says which, and where from.
          ImportError: transformers or torch is not installed.
        """
        files.need("torch", name)
        transformers = files.need("transformers", name)
        self.name, self.device = name, device
        wanted = [
            "config.json",
            "preprocessor_config.json",
            ("model.safetensors", "pytorch_model.bin"),
        ]
        folder = files.find(
            weights or HUBS[name], wanted, name, f"the hub's {HUBS[name]}"
        )
        model = {"wav2vec2": "Wav2Vec2Model", "hubert": "HubertModel"}[name]
        unused = ("masked_spec_embed",)  # training's
        self.model = files.load_all(getattr(transformers, model), folder, unused)
        self.model.to(device)
        self.extract = transformers.AutoFeatureExtractor.from_pretrained(folder)
        self.dim = self.model.config.hidden_size
        kept = [folder / wanted[0], folder / wanted[1]]
        self.hash = files.hash_files([*kept, files.first_of(folder, wanted[2])])

    def embed(self, wave):
        """Sound [L] f32 in [-1, 1] at 16 kHz -> [4 ceil(L / 1280), dim] f32."""
        return self.many([wave])[0]

    def many(self, waves):
        """Sounds [L] -> features of each; those of one length go together.

        Base models take no mask, so a longer neighbour would change a clip.
        """
        padded = [_padded(check_wave(wave)) for wave in waves]
        out = [np.zeros((0, self.dim), np.float32)] * len(padded)
        for length in {len(wave) for wave in padded} - {0}:
            chosen = [k for k, wave in enumerate(padded) if len(wave) == length]
            features = self._embed([padded[k] for k in chosen])
            for k, own in zip(chosen, features, strict=True):
                out[k] = own
        return out

    def _embed(self, waves):
        import torch

        values = self.extract(waves, sampling_rate=mo.SAMPLE_RATE, return_tensors="pt")
        with torch.inference_mode():
            out = self.model(values.input_values.to(self.device)).last_hidden_state
        return out.float().cpu().numpy()


def _padded(wave):
    """Whole base tokens; without 80 samples more the convolutions give one too few."""
    if not len(wave):
        return wave
    return np.pad(wave, (0, -len(wave) % mo.SAMPLES_PER_TOKEN + RECEPTIVE - STRIDE))
