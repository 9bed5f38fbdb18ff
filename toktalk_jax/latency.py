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


def first_chunk(task, examples=100):
    """Milliseconds to a clip's first frames, over `examples` clips one by one.

    Args:
      task: `task.Task`; its tokenizer, or its adapter's, is timed on the clips' sound,
        or on noise where the dataset holds none.

    Returns:
      ({"T_animation_ms"} (tokens to motion),
      {"TTFTB_ms": the paper's, scaled to the chunk}, {"chatbot_ms": Eq. 7},
      {"tokenise_ms"} (sound to tokens), {"voice_ms": the chunk that is listened to, its
      tokens and its motion}, each measured one as its mean, "_p50" and "_p95"; notes,
      which say so where there is no tokenizer to time).
    """
    sampler = make_sampler(task.bundle, task.settings, task.adapter)
    chunk_ms = 1e3 * sampler.chunk_frames / mo.FPS
    tokenizer, notes = _tokenizer(task)
    tokenised, solved = _times(task, sampler, tokenizer, examples)
    ttftb = TTFTB_MS * chunk_ms / (1e3 * TTFTB_SECONDS)
    found = {"TTFTB_ms": ttftb} | _told("T_animation_ms", solved)
    found |= _told("chatbot_ms", ttftb + np.maximum(T_AUDIO_MS, solved))
    if tokenizer is not None:
        found |= _told("tokenise_ms", tokenised)
        found |= _told("voice_ms", chunk_ms + tokenised + solved)
    return found, notes


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
        return load_tokenizer(task.bundle, adapter=task.adapter), []
    except (ValueError, OSError, ImportError) as error:
        return None, [f"the tokenizer is not timed: {error}"]


def _times(task, sampler, tokenizer, examples):
    """Milliseconds ([K] sound to tokens, [K] tokens to motion) of first chunks."""
    stream = sampler.init(jax.random.key(task.seed)[None], task.styles[:1])
    length = sampler.chunk_frames * mo.SAMPLES_PER_FRAME
    # What it takes depends on the length of the sound, hardly on what is said.
    noise = np.random.default_rng(0).normal(0, 1000, length).astype(np.int16)
    times = []
    for k in range(examples + 2):
        clip = task.clips[k % len(task.clips)]
        audio = noise if clip.audio is None else np.resize(clip.audio, length)
        audio = audio.astype(np.float32) / 32768
        tokens = predict.raw_tokens(clip, sampler)
        tokens = np.resize(tokens, (1, sampler.chunk_tokens, sampler.width))
        tokens = tokens.astype(np.float32)
        source = tokenizer and tokenizer.stream()
        begin = time.perf_counter()
        if source:
            source.push(audio)
        heard = time.perf_counter()
        after, motion = sampler.step(stream, tokens)
        jax.block_until_ready(motion)
        times.append((heard - begin, time.perf_counter() - heard))
        jax.block_until_ready(after)  # the prefill, before the next tokens come
    return 1e3 * np.array(times[2:]).T  # the first compiled
