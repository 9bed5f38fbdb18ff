"""Datasets to device-ready batches: a pure function of (seed, step).

Clips lie in memory (26 h of them fit). A batch is computed from its step alone, inside
a tf.data map, so resuming at step k gives what an uninterrupted run would have seen.
"""

import os
import weakref

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it logs; no maths is done here

import numpy as np
import tensorflow as tf

from toktalk_jax.data import windows
from toktalk_jax.data.dataset import (  # noqa: F401  (read here, batched here)
    Clip,
    Dataset,
    describe,
    evaluation_clips,
    foreign_stats,
    join_stats,
    load,
    raw_clips,
    read_metadata,
)

BLOCK_SIZES = (10, 20, 30, None)  # None: one block, full attention
STYLE_FRAMES = (25, 100)


def batches(
    clips,
    *,
    seed,
    batch_size,
    window_lengths,
    start_step=0,
    style_frames=STYLE_FRAMES,
    style_reference="same_clip",
    block_sizes=BLOCK_SIZES,
    adapter_window=None,
    process_index=0,
    process_count=1,
):
    """Endless batches from a step on; the batch of a step never depends on the start.

    Args:
      clips: from `load`.
      batch_size: B over all processes; each gets its own B / process_count rows.
      window_lengths: frames, even; every batch draws one, so each compiles once.
      start_step: first step.
      style_frames: shortest and longest style reference; the longest is R.
      style_reference: "same_clip" (disjoint from the target; another clip of the
        speaker when there is no room), "same_window" or "same_speaker".
      block_sizes: attention blocks to draw from, each at a random even phase.
      adapter_window: (n, c), tokens before a chunk and of a chunk of the adapter; T
        is a multiple of 2 c. None leaves the foreign tokens out.

    Returns:
      Iterator of dicts of NumPy: motion [B, T, 56] f32 z-scores, tokens [B, T / 2, A]
      f32, mask [B, T], style [B, R, 56], style_mask [B, R], block_id [B, T] int32,
      index [B] int32, the global example index step * B + i, speaker [B] int32, a
      place in `windows.speakers`; with `adapter_window` also foreign
      [B, n + T / 2 + c, A'] f32, which begins n tokens before the chunk that the
      window begins in, foreign_mask [B, n + T / 2 + c], False before the clip begins,
      and foreign_offset [B] int32, tokens of that chunk before the window.

    Raises:
      ValueError: settings that no batch can be made of, at once.
    """
    if batch_size % process_count or not 0 <= process_index < process_count:
        raise ValueError(
            f"a batch of {batch_size} cannot be dealt to process {process_index} of "
            f"{process_count}"
        )
    speaker_of = {name: i for i, name in enumerate(windows.speakers(clips))}
    another = windows.same_speaker(clips)
    windows.check_settings(
        clips,
        another,
        window_lengths=window_lengths,
        style_frames=style_frames,
        style_reference=style_reference,
        blocks=block_sizes,
    )
    share = batch_size // process_count

    def batch(step):
        step = int(step)
        first = step * batch_size + process_index * share
        window = windows.window_length(seed, step, window_lengths)
        rows = [
            windows.row(
                clips,
                speaker_of,
                another,
                index,
                window,
                seed=seed,
                style_frames=style_frames,
                style_reference=style_reference,
                blocks=block_sizes,
                adapter_window=adapter_window,
            )
            for index in range(first, first + share)
        ]
        return [np.stack([row[key] for row in rows]) for key in kinds]

    kinds = windows.KINDS
    if adapter_window is not None:
        kinds = kinds | windows.PAIRED
    steps = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max)
    types = list(kinds.values())
    made = steps.map(lambda step: tf.numpy_function(batch, [step], types))
    holder = [made.prefetch(4).as_numpy_iterator()]
    found = _drain(holder, tuple(kinds))
    # The prefetch thread runs Python. Dropped only when the interpreter is torn down,
    # it would wait for a lock that never comes, and the process would never end.
    weakref.finalize(found, holder.clear)
    return found


def _drain(holder, keys):
    while holder:
        yield dict(zip(keys, next(holder[0]), strict=True))
