"""How long the first frame takes: the terms of the paper's Equations 6 and 7.

T_animation is measured, an adapter inside, and so is the tokenizer that a live voice
needs; TTFTB and T_audio belong to the audio language model and stand as the paper
states them.
"""

import time

import jax
import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.evaluation import predict
from toktalk_jax.evaluation.paper import T_AUDIO_MS, TTFTB_MS, TTFTB_SECONDS
from toktalk_jax.inputs import load_tokenizer
from toktalk_jax.sample import make_sampler
from toktalk_jax.tokenizers.ahead import AHEAD


def first_chunk(task, examples=100):
    """Milliseconds to a clip's first frames, over `examples` clips one by one.

    Args:
      task: `task.Task`; its tokenizer, or its adapter's, is timed on the clips' sound,
        or on noise where the dataset holds none.

    Returns:
      ({"T_animation_ms"} (tokens to motion),
      {"TTFTB_ms": the paper's, scaled to the tokens of a chunk and those that stand
      beside its last}, {"chatbot_ms": Eq. 7},
      {"tokenise_ms"} (the last of the sound to tokens), {"voice_ms": the sound that is
      listened to, its tokens and its motion}, each measured one as its mean, "_p50" and
      "_p95"; notes, which say so where there is no tokenizer to time).
    """
    sampler = make_sampler(task.bundle, task.settings, task.adapter)
    chunk_ms = 1e3 * sampler.chunk_frames / mo.FPS
    tokenizer, notes = _tokenizer(task)
    listened, tokenised, solved = _times(task, sampler, tokenizer, examples)
    waited_ms = chunk_ms + 1e3 * _beside(task.bundle.dataset) / mo.TOKEN_HZ
    ttftb = TTFTB_MS * waited_ms / (1e3 * TTFTB_SECONDS)
    found = {"TTFTB_ms": ttftb} | _told("T_animation_ms", solved)
    found |= _told("chatbot_ms", ttftb + np.maximum(T_AUDIO_MS, solved))
    if tokenizer is not None:
        found |= _told("tokenise_ms", tokenised)
        found |= _told("voice_ms", listened + tokenised + solved)
    return found, notes


def _beside(dataset):
    """How many tokens a language model must be ahead: of "mel_rvq:ahead1" it is 1."""
    _, ahead, count = dataset["tokenizer"].partition(AHEAD)
    return int(count) if ahead else 0


def _told(name, times):
    """Mean, as the paper has it, median and 95th percentile of one number."""
    return {
        name: float(np.mean(times)),
        f"{name}_p50": float(np.median(times)),
        f"{name}_p95": float(np.percentile(times, 95)),
    }


def _tokenizer(task):
    """(the tokenizer that a live voice would need, or None, notes on why not)."""
    try:
        tokenizer = load_tokenizer(task.bundle, adapter=task.adapter)
    except (ValueError, OSError, ImportError) as error:
        return None, [f"the tokenizer is not timed: {error}"]
    if np.isinf(tokenizer.lookahead_s):
        return None, [f"no voice is timed: {tokenizer.name} reads the whole clip"]
    return tokenizer, []


def _times(task, sampler, tokenizer, examples):
    """Milliseconds of first chunks: [K] of sound, [K] to its tokens, [K] to motion."""
    stream = sampler.init(jax.random.key(task.seed)[None], task.styles[:1])
    times = []
    for k in range(examples + 2):
        clip = task.clips[k % len(task.clips)]
        tokens = predict.raw_tokens(clip, sampler)
        tokens = np.resize(tokens, (1, sampler.chunk_tokens, sampler.width))
        tokens = tokens.astype(np.float32)
        listened, tokenised = _listen(tokenizer, clip.audio, sampler.chunk_tokens)
        begin = time.perf_counter()
        after, motion = sampler.step(stream, tokens)
        jax.block_until_ready(motion)
        times.append((listened, tokenised, 1e3 * (time.perf_counter() - begin)))
        jax.block_until_ready(after)  # the prefill, before the next tokens come
    return np.array(times[2:]).T  # the first compiled


def _listen(tokenizer, audio, count):
    """Milliseconds (of sound, to compute) to the first `count` tokens at 12.5 Hz.

    Sound comes in pieces of a token, and only what the last of them costs is waited
    for; a tokenizer that looks ahead asks for pieces beyond the chunk.
    """
    if tokenizer is None:
        return 1e3 * count / mo.TOKEN_HZ, 0.0
    most, piece = 4 * count, mo.SAMPLES_PER_TOKEN
    if audio is None:
        # What it takes depends on the length of the sound, hardly on what is said.
        audio = np.random.default_rng(0).normal(0, 1000, most * piece).astype(np.int16)
    audio = np.resize(audio, most * piece).astype(np.float32) / 32768
    source, to_base = tokenizer.stream(), mo.ToTokenRate(tokenizer.rate_hz)
    found = 0
    for k in range(most):
        begin = time.perf_counter()
        found += len(to_base.push(source.push(audio[k * piece : (k + 1) * piece])))
        spent = 1e3 * (time.perf_counter() - begin)
        if found >= count:
            return 1e3 * (k + 1) / mo.TOKEN_HZ, spent
    raise ValueError(
        f"{tokenizer.name} made {found} tokens of {most / mo.TOKEN_HZ:g} s of sound; "
        f"expected the {count} of a chunk by then"
    )
