"""Training windows: which frames, which style reference, which blocks. Plain NumPy.

Everything of a row is drawn from (seed, its global example index), everything of a
batch from (seed, step): nothing depends on what was drawn before.
"""

import functools

import jax
import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.data import augment

STYLE_REFERENCES = ("same_clip", "same_window", "same_speaker")
MIN_STYLE = 10  # frames of the shortest style reference, 0.4 s
KINDS = {
    "motion": "float32",
    "tokens": "float32",
    "mask": "bool",
    "style": "float32",
    "style_mask": "bool",
    "block_id": "int32",
    "index": "int32",
    "speaker": "int32",
}
PAIRED = {"foreign": "float32", "foreign_mask": "bool", "foreign_offset": "int32"}
_LENGTH, _ROW, _EPOCH = 0, 1, 2  # streams of random numbers under one seed


def frames_of(clip):
    """Frames of a clip that have motion, tokens and, if there are any, foreign ones."""
    tokens = min(len(t) for t in (clip.tokens, clip.foreign) if t is not None)
    return min(len(clip.motion), mo.FRAMES_PER_TOKEN * tokens)


def shapes(size, window, longest_style, width):
    """A batch of `size` rows as `jax.ShapeDtypeStruct`s, for tracing.

    Args:
      window: frames; longest_style: of a style reference; width: of a token.
    """
    inner = {
        "motion": (window, mo.F),
        "tokens": (window // mo.FRAMES_PER_TOKEN, width),
        "mask": (window,),
        "style": (longest_style, mo.F),
        "style_mask": (longest_style,),
        "block_id": (window,),
    }
    return {
        key: jax.ShapeDtypeStruct((size, *inner.get(key, ())), kind)
        for key, kind in KINDS.items()
    }


def window_length(seed, step, lengths):
    """Length of the windows of a batch, in frames, drawn from (seed, step)."""
    return int(np.random.default_rng([seed, _LENGTH, step]).choice(lengths))


@functools.lru_cache(maxsize=4)
def epoch_order(seed, epoch, count):
    """[count] permutation of clips in an epoch."""
    return np.random.default_rng([seed, _EPOCH, epoch]).permutation(count)


def speakers(clips):
    """The clips' speakers, sorted: a row's `speaker` is a place in this list."""
    return sorted({clip.speaker_id for clip in clips})


def same_speaker(clips):
    """another(i, rng): a random other recording of clip i's speaker, or None.

    An augmented copy is no other recording: its motion is the target's own.
    """
    members, recordings = {}, {}
    sources = [(c.corpus, augment.source_id(c.clip_id)) for c in clips]
    for i, clip in enumerate(clips):
        members.setdefault(clip.speaker_id, []).append(i)
        recordings.setdefault(clip.speaker_id, set()).add(sources[i])

    def another(i, rng):
        speaker = clips[i].speaker_id
        if len(recordings[speaker]) == 1:
            return None
        while True:
            j = members[speaker][int(rng.integers(len(members[speaker])))]
            if sources[j] != sources[i]:
                return j

    return another


def row(
    clips,
    speaker_of,
    another,
    index,
    window,
    *,
    seed,
    style_frames,
    style_reference,
    blocks,
    adapter_window=None,
):
    """One training example, drawn from (seed, index).

    Args:
      clips: see `pipeline.Clip`.
      speaker_of: {speaker_id: place in `speakers`}.
      another: from `same_speaker`.
      index: global example index: step * batch size + row.
      window: T, frames.
      style_frames: shortest and longest style reference; the longest is R.
      style_reference: "same_clip", "same_window" or "same_speaker".
      blocks: sizes of attention blocks to draw from; None is one block.
      adapter_window: (tokens before a chunk, of a chunk) of the adapter; None leaves
        the foreign tokens out.

    Returns:
      dict of motion [T, 56], tokens [T / 2, A], mask [T], style [R, 56],
      style_mask [R], block_id [T] int32, index and speaker int32, and foreign,
      foreign_mask and foreign_offset as `pipeline.batches` has them.
    """
    epoch, place = divmod(index, len(clips))
    chosen = int(epoch_order(seed, epoch, len(clips))[place])
    rng = np.random.default_rng([seed, _ROW, index])
    clip = clips[chosen]
    frames = frames_of(clip)
    # Anywhere, but half the window inside the clip: the rest would be padding.
    start = 2 * int(rng.integers(max(frames - window // 2, 0) // 2 + 1))
    stop = min(start + window, frames)
    source, spans = chosen, [(0, start), (stop, frames)]
    disjoint = max(b - a for a, b in spans) >= style_frames[0]
    if style_reference == "same_window":
        spans = [(start, stop)]
    elif style_reference == "same_speaker" or not disjoint:
        elsewhere = another(chosen, rng)
        if elsewhere is not None:
            source = elsewhere
            spans = [(0, frames_of(clips[source]))]
        elif not disjoint:
            # The speaker's only clip, and a short one: half target, half reference.
            start, stop = 0, min(window, frames // 4 * 2)
            spans = [(frames // 4 * 2, frames)]
    first, last = _draw_span(rng, spans, style_frames)
    style = clips[source].motion[first:last]
    return {
        **_target(clip, start, stop, window),
        **_foreign(clip, start, window, adapter_window),
        "style": _padded(style, style_frames[1]),
        "style_mask": np.arange(style_frames[1]) < len(style),
        "block_id": _block_id(rng, window, blocks),
        "index": np.int32(index),
        "speaker": np.int32(speaker_of[clip.speaker_id]),
    }


def _target(clip, start, stop, window):
    first = start // mo.FRAMES_PER_TOKEN
    count = window // mo.FRAMES_PER_TOKEN
    return {
        "motion": _padded(clip.motion[start:stop], window),
        "tokens": _padded(clip.tokens[first : first + count], count),
        "mask": np.arange(window) < stop - start,
    }


def _foreign(clip, start, window, adapter_window):
    """Foreign tokens of the chunks that a window lies in, and of the context before.

    Chunks stand where a stream's do, at multiples of their size from the clip's first
    token: a tokenizer that is encoded chunk by chunk knows more early in a chunk.
    """
    if adapter_window is None:
        return {}
    context, chunk = adapter_window
    offset = start // mo.FRAMES_PER_TOKEN % chunk
    first = start // mo.FRAMES_PER_TOKEN - offset - context
    count = context + window // mo.FRAMES_PER_TOKEN + chunk
    missing = max(-first, 0)
    found = clip.foreign[max(first, 0) : first + count]
    tokens = np.concatenate([np.zeros((missing, found.shape[1])), found])
    return {
        "foreign": _padded(tokens, count),
        # A stream goes on after its clip, with tokens of the mean.
        "foreign_mask": np.arange(count) >= missing,
        "foreign_offset": np.int32(offset),
    }


def _draw_span(rng, spans, style_frames):
    """A stretch of random length at a random place of the spans, longer ones first."""
    shortest, longest = style_frames
    wanted = int(rng.integers(shortest, longest + 1))
    spans = [s for s in spans if s[1] - s[0] >= shortest] or [
        max(spans, key=lambda s: s[1] - s[0])
    ]
    sizes = np.array([b - a for a, b in spans])
    pick = int(rng.choice(len(spans), p=sizes / sizes.sum()))
    length = min(wanted, int(sizes[pick]))
    first = spans[pick][0] + int(rng.integers(sizes[pick] - length + 1))
    return first, first + length


def _block_id(rng, window, blocks):
    """[window] int32: blocks of a drawn size at a drawn even phase."""
    size = blocks[int(rng.integers(len(blocks)))]
    if size is None:
        return np.zeros(window, np.int32)
    phase = 2 * int(rng.integers((size + 1) // 2))
    return ((np.arange(window) + phase) // size).astype(np.int32)


def _padded(rows, count):
    out = np.zeros((count, rows.shape[1]), np.float32)
    out[: len(rows)] = rows
    return out


def check_settings(
    clips, another, *, window_lengths, style_frames, style_reference, blocks
):
    """Refuse settings that no batch can be made of.

    Raises:
      ValueError: names the offender.
    """
    if not clips:
        raise ValueError("no clips to make batches of")
    if style_reference not in STYLE_REFERENCES:
        raise ValueError(
            f"style_reference is {style_reference!r}; expected one of "
            f"{STYLE_REFERENCES}"
        )
    odd = [n for n in window_lengths if n < 2 or n % mo.FRAMES_PER_TOKEN]
    if odd or not len(window_lengths):
        raise ValueError(
            f"window lengths {tuple(window_lengths)} must be even numbers of frames"
        )
    shortest, longest = style_frames
    if not MIN_STYLE <= shortest <= longest:
        raise ValueError(
            f"style_frames is {tuple(style_frames)}; expected the shortest (at least "
            f"{MIN_STYLE}), then the longest reference in frames"
        )
    if not len(blocks) or any(b is not None and (b < 2 or b % 2) for b in blocks):
        raise ValueError(f"block sizes {tuple(blocks)} must be even, or None")
    if style_reference == "same_window":
        return
    rng = np.random.default_rng(0)
    for i, clip in enumerate(clips):
        if frames_of(clip) < 2 * MIN_STYLE and another(i, rng) is None:
            raise ValueError(
                f"clip {clip.clip_id} has {frames_of(clip)} frames and is the only "
                f"one of speaker {clip.speaker_id}: too short for a target and a style "
                'reference; leave it out, or use style_reference="same_window"'
            )
