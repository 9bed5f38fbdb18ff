"""Predictions of whole splits: clips of like length solved in one batch.

Every prediction goes through the `Sampler` that serves; there is no second path.
"""

import collections
import zlib

import jax
import numpy as np
from tqdm import tqdm

from toktalk_jax import motion as mo

BATCH = 25  # rows per solve, padded up to this, so that a length compiles once


def raw_tokens(clip, sampler):
    """Raw base-rate token embeddings [S, A] that a sampler takes, of a clip."""
    if sampler.adapter:
        return clip.foreign
    stats = sampler.stats
    return clip.tokens * np.where(stats.token_std > 1e-8, stats.token_std, 1.0) + (
        stats.token_mean
    )


def tokens_of(clip, sampler):
    """How many tokens of a clip a sampler takes."""
    return len(clip.foreign if sampler.adapter else clip.tokens)


def name_of(clip):
    """corpus/clip_id: two corpora may speak the same sentences."""
    return f"{clip.corpus}/{clip.clip_id}"


def clip_keys(clips, seed, sample=0):
    """One PRNG key per clip, by its name: batching and order change no score."""
    root = jax.random.fold_in(jax.random.key(seed), sample)
    ids = np.array([zlib.crc32(name_of(clip).encode()) for clip in clips], np.uint32)
    return jax.vmap(lambda i: jax.random.fold_in(root, i))(ids)


def streamed(sampler, clips, styles, *, seed=0, sample=0, progress="", batch=None):
    """Stream every clip in the sampler's chunks.

    Args:
      clips: with standardised tokens [S, A] and motion [T, F].
      styles: [clips, K].
      progress: words of a progress bar over the batches; "": none.
      batch: rows per solve; None: BATCH.

    Returns:
      list of [T', F] raw motion, T' = min(T, 2 S): the last frames that fill no chunk
      are solved with mean tokens after them, as `Sampler.flush` does.
    """
    keys = clip_keys(clips, seed, sample)
    chunks = [-(-tokens_of(clip, sampler) // sampler.chunk_tokens) for clip in clips]
    # By length, or clips of all lengths would be padded to the longest.
    order = sorted(range(len(clips)), key=chunks.__getitem__)
    out = [None] * len(clips)
    batch = batch or BATCH
    starts = range(0, len(order), batch)
    for start in tqdm(starts, desc=progress, disable=not progress):
        rows = order[start : start + batch]
        seats = rows + rows[:1] * (batch - len(rows))
        longest = chunks[rows[-1]]
        tokens = np.stack([_padded(clips[i], sampler, longest) for i in seats])
        motion = np.asarray(
            sampler.sample_clip(keys[np.array(seats)], tokens, styles[seats])
        )
        for row, i in enumerate(rows):
            frames = 2 * tokens_of(clips[i], sampler)
            out[i] = motion[row, : min(len(clips[i].motion), frames)]
    return out


def _padded(clip, sampler, chunks):
    tokens = raw_tokens(clip, sampler)
    spare = chunks * sampler.chunk_tokens - len(tokens)
    mean = (sampler.adapter or sampler.stats).token_mean
    tail = np.broadcast_to(mean, (spare, tokens.shape[1]))
    return np.concatenate([tokens, tail])


def whole(make_sampler, clips, styles, *, chunk_frames, seed=0, samples=1):
    """Every clip solved as one chunk by the same weights: no border anywhere.

    Args:
      make_sampler: (chunk_frames, context_frames) -> `Sampler`.
      chunk_frames: clips are padded to whole multiples of it, as a stream is.

    Returns:
      list of [samples, T', F] raw motion, T' as of `streamed`.
    """
    out = [None] * len(clips)
    groups = collections.defaultdict(list)
    for i, clip in enumerate(clips):
        frames = mo.FRAMES_PER_TOKEN * len(clip.tokens)
        groups[-(-frames // chunk_frames) * chunk_frames].append(i)
    for frames, members in sorted(groups.items()):
        sampler = make_sampler(chunk_frames=frames, context_frames=2)
        some = [clips[i] for i in members]
        # Each length compiles anyway: no rows of nothing beside the few that it has.
        few = {"seed": seed, "batch": min(len(some), BATCH)}
        drawn = [
            streamed(sampler, some, styles[members], sample=k, **few)
            for k in range(samples)
        ]
        for i, *motions in zip(members, *drawn, strict=True):
            out[i] = np.stack(motions)
    return out
