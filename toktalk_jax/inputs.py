"""What a sample is made from: a style, token embeddings, a tokenizer; all checked.

The files' schemas stand in `toktalk_jax.sample`.
"""

import functools
import pathlib
import zipfile

import jax
import numpy as np

from toktalk_jax import models
from toktalk_jax import motion as mo
from toktalk_jax.tokenizers import load
from toktalk_jax.training import checkpoints

MIN_STYLE_FRAMES = 10


def encode_style(bundle, motion):
    """Style vectors [B, K] of raw reference clips [B, R, 56]; the encoder's mean."""
    _, encoder = models.build(bundle.config["model"], bundle.config["style"])
    z = bundle.stats.normalise(np.asarray(motion, np.float32)) * bundle.stats.live
    return np.asarray(_encode(encoder, bundle.params["style"], z.astype(np.float32)))


@functools.partial(jax.jit, static_argnums=0)
def _encode(encoder, params, z):
    return encoder.apply({"params": params}, z)[0]


def load_style(bundle, name):
    """Style vector [1, K] by name or file.

    Args:
      name: "none" (no style), a style .npz, or the name of a shipped style; those are
        clips of the stand-in's performer.

    Raises:
      ValueError, FileNotFoundError: says what was there to choose from.
    """
    width = bundle.config["style"]["width"]
    if name == "none":
        return np.zeros((1, width), np.float32)
    path = pathlib.Path(name)
    if path.suffix == ".npz":
        return encode_style(bundle, _read_npz(path, "motion", mo.F)[None])
    if bundle.dataset["face_model"] != "stand_in":
        raise ValueError(
            f"style {name!r} is of the stand-in, the model of face model "
            f"{bundle.dataset['face_model']!r}; give a style .npz of it, or 'none'"
        )
    shipped = checkpoints.SHIPPED / "small" / "styles.npz"
    with np.load(shipped) as file:
        styles = {**file}
    if name not in styles:
        raise ValueError(
            f"no style named {name!r}; shipped are {sorted(styles)}, or give a style "
            ".npz with motion [R, 56], or 'none'"
        )
    return encode_style(bundle, styles[name][None])


def heard_by(bundle, adapter=None):
    """(facts of the tokenizer that feeds a model, its state file, raw width A).

    Args:
      adapter: `training.adapters.AdapterBundle` in front of the model, or None.
    """
    if adapter is None:
        return bundle.dataset, bundle.tokenizer_state, len(bundle.stats.token_mean)
    return adapter.facts["foreign"], adapter.tokenizer_state, len(adapter.mean)


def load_tokens(path, bundle, adapter=None):
    """Base-rate tokens [S, A] of a token .npz, checked against the model.

    Raises:
      ValueError: wrong width, rate, dtype or tokenizer, or less of them than of their
        sound; names what came and what fits.
    """
    raw = _load_npz(path)
    for key in ("tokens", "rate_hz"):
        if key not in raw:
            raise ValueError(f"{path} has no {key!r}; it holds {sorted(raw)}")
    facts, _, width = heard_by(bundle, adapter)
    tokens, wanted = raw["tokens"], facts["tokenizer"]
    if tokens.dtype not in (np.float16, np.float32) or tokens.ndim != 2:
        raise ValueError(
            f"{path}: tokens are {tokens.dtype} {tokens.shape}; expected [S, A] "
            "float16 or float32 embeddings, not codes"
        )
    if "tokenizer" in raw and str(raw["tokenizer"]) != wanted:
        raise ValueError(
            f"{path} holds {raw['tokenizer']} tokens; this model was trained on "
            f"{wanted} tokens: use a model of that tokenizer, or an adapter (--adapter)"
        )
    rate, audio = np.asarray(raw["rate_hz"]), raw.get("audio")
    if not len(tokens) or rate.shape or rate.dtype.kind not in "fiu":
        raise ValueError(
            f"{path}: tokens are {tokens.shape} at rate_hz {rate}; expected at least "
            "one token and one number"
        )
    if audio is not None and (audio.dtype != np.int16 or audio.ndim != 1):
        raise ValueError(
            f"{path}: audio is {audio.dtype} {audio.shape}; expected [L] int16 at 16 "
            "kHz"
        )
    if float(rate) not in (mo.TOKEN_HZ, own := facts.get("rate_hz", float(rate))):
        raise ValueError(
            f"{path}: rate_hz is {float(rate):g}; {wanted} makes {own:g} tokens a "
            f"second (or give them at {mo.TOKEN_HZ}, as a model takes them)"
        )
    tokens = mo.to_token_rate(tokens.astype(np.float32), float(rate))
    if tokens.shape[1] != width:
        raise ValueError(
            f"{path}: tokens are {tokens.shape[1]} wide at 12.5 Hz; this model takes "
            f"{width} ({wanted})"
        )
    frames = mo.FRAMES_PER_TOKEN * len(tokens)
    if audio is not None and len(audio) > (frames + 2) * mo.SAMPLES_PER_FRAME:
        raise ValueError(
            f"{path}: tokens cover {frames / mo.FPS:.2f} s of "
            f"{len(audio) / mo.SAMPLE_RATE:.2f} s of audio; expected all of it"
        )
    return tokens, audio


def load_tokenizer(bundle, weights=None, adapter=None):
    """The tokenizer that the bundle, or the adapter in front of it, was trained with.

    Raises:
      ValueError: it needs weights that were not given, or other ones.
      FileNotFoundError, ImportError: see `tokenizers.load`.
    """
    facts, state, _ = heard_by(bundle, adapter)
    name = facts["tokenizer"]
    if name == "hibari":
        raise ValueError(
            "the model was trained on the synthesizer's own states, which no recording "
            "has; give --text, or --tokens, a file of token embeddings"
        )
    tokenizer = load.load(name, weights or "", state)
    if tokenizer.hash != (wanted := facts["tokenizer_hash"]):
        raise ValueError(
            f"these are other {name} weights ({tokenizer.hash}) than the model was "
            f"trained with ({wanted}); name those with --weights"
        )
    return tokenizer


def _load_npz(path):
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {**file}
    except (ValueError, OSError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a whole .npz file ({error})") from None


def _read_npz(path, key, width):
    raw = _load_npz(path)
    if key not in raw:
        raise ValueError(f"{path} has no {key!r}; it holds {sorted(raw)}")
    value = np.asarray(raw[key], np.float32)
    if value.ndim != 2 or value.shape[1] != width or len(value) < MIN_STYLE_FRAMES:
        raise ValueError(
            f"{path}: {key} is {value.shape}; expected [R, {width}] with R at least "
            f"{MIN_STYLE_FRAMES} frames (0.4 s)"
        )
    if not np.isfinite(value).all():
        raise ValueError(f"{path}: {key} holds NaN or Inf values")
    return value
