"""GLM-4-Voice: Whisper-VQ codes (12.5 Hz, 16384) as rows of its decoder's input.

The tokenizer is a Whisper encoder with causal convolutions, attention within and before
blocks of 4 s, average pooling by 4 and a nearest-code lookup after layer 16. The
embedding is the row of `input_embedding.weight` [16384, 512] in the decoder's flow.pt.
Weights: hub ids THUDM/glm-4-voice-tokenizer and THUDM/glm-4-voice-decoder, put into one
folder. Written from the published architecture on transformers' Whisper layers.
"""

import json
import math

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.tokenizers import weights as files
from toktalk_jax.tokenizers.cosyvoice2 import read_table
from toktalk_jax.tokenizers.stream import check_wave

SOURCE = "the hub's THUDM/glm-4-voice-tokenizer and THUDM/glm-4-voice-decoder"
FLOW = "flow.pt"
WINDOW = 30 * mo.SAMPLE_RATE
CONFIG = (
    *("d_model", "encoder_attention_heads", "encoder_ffn_dim", "num_mel_bins"),
    *("max_source_positions", "encoder_causal_convolution", "quantize_position"),
    *("quantize_vocab_size", "quantize_causal_block_size", "pooling_position"),
    "pooling_kernel_size",
)
PREFIXES = ("model.encoder.", "encoder.", "")


class Glm4Voice:
    """The tokenizer through PyTorch, and the decoder's table.

    Attributes:
      table: [16384, 512] f32.
      hash: 12 hex digits over the files.
    """

    name = "glm4voice"
    rate_hz = mo.TOKEN_HZ
    num_codes = 1
    sample_rate = mo.SAMPLE_RATE
    batch = 1
    lookahead_s = math.inf  # log-mels are levelled by the piece's loudest moment

    def __init__(self, weights="", device="cpu"):
        """Load the weights.

        Args:
          weights: folder with config.json, preprocessor_config.json and
            model.safetensors of the tokenizer, and flow.pt of the decoder.
          device: PyTorch's name of it.

        Raises:
          FileNotFoundError: no weights there; says which, and where from.
          ImportError: transformers or torch is not installed.
          ValueError: weights that do not fit their config.json.
        """
        wanted = ["config.json", "preprocessor_config.json", "model.safetensors", FLOW]
        folder = files.find(weights or "weights", wanted, self.name, SOURCE)
        transformers = files.need("transformers", self.name)
        config = json.loads((folder / "config.json").read_text())
        self.network = _load(folder / "model.safetensors", config).to(device)
        self.features = transformers.WhisperFeatureExtractor.from_pretrained(folder)
        self.table = read_table(folder / FLOW, self.name, config["quantize_vocab_size"])
        self.dim, self.device = self.table.shape[1], device
        self.hash = files.hash_files([folder / f for f in wanted])

    def encode(self, wave):
        """Sound [L] f32 at 16 kHz -> codes [ceil(L / 1280), 1] int32."""
        import torch

        wave, out = check_wave(wave), [np.zeros(0, np.int32)]
        for start in range(0, len(wave), WINDOW):
            mels = self.features(
                wave[start : start + WINDOW],
                sampling_rate=mo.SAMPLE_RATE,
                padding="longest",
                pad_to_multiple_of=mo.SAMPLES_PER_TOKEN,
                return_attention_mask=True,
                return_tensors="pt",
            ).to(self.device)
            with torch.inference_mode():
                codes = self.network(mels.input_features, mels.attention_mask)
            out.append(codes[0].cpu().numpy())
        return np.concatenate(out).astype(np.int32)[:, None]

    def decode(self, codes):
        """Codes [S, 1] -> the decoder's input embeddings [S, 512] f32."""
        return self.table[codes[:, 0]]

    def embed(self, wave):
        """Sound [L] f32 in [-1, 1] at 16 kHz -> embeddings [S, 512] f32 at 12.5 Hz."""
        return self.decode(self.encode(wave))


def build(config):
    """The tokenizer's network from its config.json (a dict), random weights.

    Parameter names are those of the published checkpoint: conv1, conv2,
    embed_positions, layers.N.*, codebook.
    """
    import torch
    from torch import nn
    from torch.nn import functional
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer

    absent = [key for key in CONFIG if config.get(key) is None]
    if absent:
        raise ValueError(f"config.json says nothing of {', '.join(absent)}")
    keys = ("d_model", "encoder_attention_heads", "encoder_ffn_dim", "num_mel_bins")
    whisper = WhisperConfig(**{k: config[k] for k in keys}, encoder_layers=1)
    whisper._attn_implementation = "sdpa"

    class WhisperVQ(nn.Module):
        def __init__(self):
            super().__init__()
            width = config["d_model"]
            self.conv1 = nn.Conv1d(config["num_mel_bins"], width, 3)
            self.conv2 = nn.Conv1d(width, width, 3, stride=2)
            self.embed_positions = nn.Embedding(config["max_source_positions"], width)
            self.layers = nn.ModuleList(
                [
                    WhisperEncoderLayer(whisper)
                    for _ in range(config["quantize_position"])
                ]
            )
            self.codebook = nn.Embedding(config["quantize_vocab_size"], width)

        def forward(self, mels, mask):
            """Log-mels [B, M, 8 S], mask [B, 8 S] -> codes [B, S]."""
            left = (2, 0) if config["encoder_causal_convolution"] else (1, 1)
            x = functional.gelu(self.conv1(functional.pad(mels, left)))
            x = functional.gelu(self.conv2(functional.pad(x, left))).transpose(1, 2)
            x = x + self.embed_positions.weight[: x.shape[1]]
            mask = mask[:, ::2].bool()
            block = config["quantize_causal_block_size"]
            for i, layer in enumerate(self.layers, 1):
                out = layer(x, _block_mask(mask, block, x))
                x = out[0] if isinstance(out, tuple) else out
                if i == config["pooling_position"]:
                    by = config["pooling_kernel_size"]
                    x = functional.avg_pool1d(x.transpose(1, 2), by).transpose(1, 2)
                    mask, block = mask[:, ::by], block // by
            apart = torch.cdist(x, self.codebook.weight[None])
            return apart.argmin(-1)

    return WhisperVQ().eval()


def _block_mask(valid, block, like):
    """[B, 1, T, T] additive: a frame sees valid ones, past or of its own block."""
    import torch

    place = torch.arange(valid.shape[1], device=like.device)
    seen = (place[None] <= place[:, None]) | (
        place[None] // block == place[:, None] // block
    )
    hidden = ~(seen[None] & valid[:, None])
    mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
    return mask.masked_fill(hidden, torch.finfo(like.dtype).min)[:, None]


def _load(path, config):
    safetensors = files.need("safetensors.torch", "glm4voice")
    network, state = build(config), safetensors.load_file(path)
    wanted = {*network.state_dict()}
    for prefix in PREFIXES:
        found = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
        if wanted <= {*found}:
            network.load_state_dict({k: found[k] for k in wanted})
            return network
    missing = sorted(wanted - {*state})
    raise ValueError(
        f"{path} lacks {len(missing)} tensors of the tokenizer its config.json "
        f"describes, for example {', '.join(missing[:3])}; expected {SOURCE}"
    )
