"""Tokenizers by name.

Each is one class with: name, rate_hz, dim (A), num_codes (Q, 0 if continuous),
lookahead_s (0 if causal, infinite if it reads the whole clip, else seconds), hash, and
`embed(wave [L] f32 at 16 kHz) -> [S, A] f32`; with codes also `encode(wave) -> [S, Q]`
and `decode(codes) -> [S, A]`; if its look-ahead is finite also `stream() ->
push(samples), flush()`.
`batch` is how many clips pay to go through the network together: above 1 there is
`many(waves)`, a list of what `encode` (with codes) or `embed` gives of each.
"""

import pathlib

CAUSAL = ":causal"  # marks a tokenizer whose prefix is re-encoded per chunk
AHEAD = ":ahead"  # and one whose tokens have so many of the next beside them


def load(name, weights="", state="", device="cpu"):
    """A tokenizer, its weights read.

    Args:
      name: one of `NAMES`; with ":causal" behind it wrapped in `prefix.Causal`, with
        ":ahead1" (or another number) in `ahead.Ahead`.
      weights: folder or hub id; "": the tokenizer's public default, if it has one.
      state: mel_rvq's fitted codebooks.
      device: of those that run on PyTorch, ONNX Runtime or CTranslate2.

    Raises:
      ValueError: no such tokenizer, one that needs --weights got none, or weights that
        are damaged or another model's.
      FileNotFoundError: weights are not there; says which, and where from.
      ImportError: what runs it is not installed; says how to install it.
    """
    inner, ahead, tokens = name.rpartition(AHEAD)
    if ahead and tokens.isdecimal():
        from toktalk_jax.tokenizers.ahead import Ahead

        return Ahead(load(inner, weights, state, device), int(tokens))
    if name.endswith(CAUSAL):
        from toktalk_jax.tokenizers.prefix import Causal

        return Causal(load(name.removesuffix(CAUSAL), weights, state, device))
    if name not in _LOADERS:
        raise ValueError(f"tokenizer is {name!r}; expected one of {sorted(_LOADERS)}")
    try:
        return _LOADERS[name](weights, state, device)
    except (ValueError, OSError, ImportError):
        raise
    except Exception as error:  # of the many libraries that read weights
        raise ValueError(
            f"{name} could not be loaded from {str(weights) or 'its default'} on "
            f"{device} ({type(error).__name__}: {str(error)[:300]}); are the files "
            "whole, and is the device there?"
        ) from error


def _mel_rvq(weights, state, device):
    from toktalk_jax.tokenizers.mel_rvq import MelRVQ

    return MelRVQ.load(pathlib.Path(state))


def _lyra(weights, state, device):
    from toktalk_jax.tokenizers.lyra import Lyra

    if not weights:
        raise ValueError(
            "the lyra tokenizer needs --weights FOLDER with soundstream_encoder.tflite "
            "and quantizer.tflite (public repository google/lyra, lyra/model_coeffs)"
        )
    return Lyra(weights)


def _mimi(weights, state, device):
    from toktalk_jax.tokenizers import mimi

    return mimi.Mimi(weights or mimi.HUB, device)


def _cosyvoice2(weights, state, device):
    from toktalk_jax.tokenizers import cosyvoice2

    return cosyvoice2.CosyVoice2(weights or cosyvoice2.HUB, device)


def _glm4voice(weights, state, device):
    from toktalk_jax.tokenizers.glm4voice import SOURCE, Glm4Voice

    if not weights:
        raise ValueError(
            f"the glm4voice tokenizer needs --weights FOLDER with files of {SOURCE}"
        )
    return Glm4Voice(weights, device)


def _wav2vec2(weights, state, device):
    from toktalk_jax.tokenizers.wav2vec2 import SpeechFeatures

    return SpeechFeatures("wav2vec2", weights, device)


def _hubert(weights, state, device):
    from toktalk_jax.tokenizers.wav2vec2 import SpeechFeatures

    return SpeechFeatures("hubert", weights, device)


def _whisper(weights, state, device):
    from toktalk_jax.tokenizers.whisper import Whisper

    return Whisper(weights, device)


def _hibari(weights, state, device):
    from toktalk_jax.tokenizers.hibari import Hibari

    return Hibari()


_LOADERS = {
    "mel_rvq": _mel_rvq,
    "lyra": _lyra,
    "mimi": _mimi,
    "cosyvoice2": _cosyvoice2,
    "glm4voice": _glm4voice,
    "wav2vec2": _wav2vec2,
    "hubert": _hubert,
    "whisper": _whisper,
    "hibari": _hibari,
}
NAMES = tuple(_LOADERS)
