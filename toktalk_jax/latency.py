"""How long the first frame takes: the terms of the paper's Equations 6 and 7.

T_animation is measured, tokenizer and adapter inside where a live voice needs them;
TTFTB and T_audio belong to the audio language model and stand as the paper states them.
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
      task: `task.Task`; with the tokenizer's file in its model the tokenizer is timed
        too, on its clips' sound, or on noise where the dataset holds none.

    Returns:
      {"T_animation_ms", "T_animation_ms_p50", "_p95"} (tokens to motion),
      {"TTFTB_ms": the paper's, scaled to the chunk}, {"chatbot_ms": Eq. 7},
      {"tokenise_ms_p50"} (sound to tokens), {"voice_ms": the chunk that is listened to,
      its tokens and its motion}.
    """
    sampler = make_sampler(task.bundle, task.settings, task.adapter)
    chunk_s = sampler.chunk_frames / mo.FPS
    solve = _solve_ms(task, sampler, examples)
    tokenise = _tokenise_ms(task, chunk_s, examples)
    t_animation = float(np.mean(solve))
    ttftb = TTFTB_MS * chunk_s / TTFTB_SECONDS
    found = {
        "T_animation_ms": t_animation,
        "T_animation_ms_p50": float(np.median(solve)),
        "T_animation_ms_p95": float(np.percentile(solve, 95)),
        "TTFTB_ms": ttftb,
        "chatbot_ms": ttftb + max(T_AUDIO_MS, t_animation),
    }
    if tokenise:
        found["tokenise_ms_p50"] = float(np.median(tokenise))
        found["voice_ms"] = 1e3 * chunk_s + found["tokenise_ms_p50"] + t_animation
    return found


def _solve_ms(task, sampler, examples):
    stream = sampler.init(jax.random.key(task.seed)[None], task.styles[:1])
    times = []
    for k in range(examples + 2):
        clip = task.clips[k % len(task.clips)]
        tokens = predict.raw_tokens(clip, sampler)
        tokens = np.resize(tokens, (1, sampler.chunk_tokens, sampler.width))
        begin = time.perf_counter()
        after, motion = sampler.step(stream, tokens.astype(np.float32))
        jax.block_until_ready(motion)
        times.append(1e3 * (time.perf_counter() - begin))
        jax.block_until_ready(after)  # the prefill, before the next tokens come
    return times[2:]  # the first compiled


def _tokenise_ms(task, chunk_s, examples):
    state = task.adapter or task.bundle
    if state.tokenizer_state is None:
        return []
    tokenizer = load_tokenizer(task.bundle, adapter=task.adapter)
    samples, times = round(chunk_s * mo.SAMPLE_RATE), []
    heard = [clip.audio for clip in task.clips if clip.audio is not None]
    # What it takes depends on the length of the sound, hardly on what is said.
    noise = np.random.default_rng(0).normal(0, 1000, samples).astype(np.int16)
    heard = heard or [noise]
    for k in range(examples + 2):
        audio = heard[k % len(heard)][:samples].astype(np.float32) / 32768
        begin = time.perf_counter()
        tokenizer.stream().push(audio)
        times.append(1e3 * (time.perf_counter() - begin))
    return times[2:]
