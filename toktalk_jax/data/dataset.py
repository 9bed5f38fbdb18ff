"""Reads exported datasets into memory: clips, metadata, joined statistics."""

import collections
import dataclasses
import json
import os
import pathlib
from typing import NamedTuple

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.data import records


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip as the model takes it.

    Attributes:
      motion: [T, 56] f32, z-scores (raw in `evaluation_clips`).
      tokens: [S, A] f32 standardised, at the base rate: one token is two frames.
      shape: [100] f32.
      codes: [S', Q] int32 at the tokenizer's own rate, None if it has none.
      audio: [L] int16 at 16 kHz, None unless exported with it.
      lips: [T, 40, 3] f32 tracked lips, None unless exported with them (`RawClip`).
      foreign: [S', A'] raw embeddings of a second tokenizer at the base rate, None
        unless exported with one.
      loudness: [T] f32 dB (`audio.loudness_db`), None in datasets made before it.
      phonemes: (start s, end s, symbol) as in `RawClip`, to a millisecond.
    """

    clip_id: str
    speaker_id: str
    corpus: str
    motion: np.ndarray
    tokens: np.ndarray
    shape: np.ndarray
    codes: np.ndarray | None
    audio: np.ndarray | None = None
    lips: np.ndarray | None = None
    foreign: np.ndarray | None = None
    emotion: int = -1
    intensity: int = -1
    loudness: np.ndarray | None = None
    phonemes: tuple = ()


class Dataset(NamedTuple):
    """Clips of one split and what belongs to them.

    Attributes:
      clips: list of `Clip`.
      metadata: metadata.json; of several directories, the first's with every corpus
        named and all of them under "directories".
      stats: `motion.Stats` that the clips are normalised by.
      tokenizer_state: path of the tokenizer's own file, or None.
    """

    clips: list
    metadata: dict
    stats: mo.Stats
    tokenizer_state: pathlib.Path | None


def load(directories, split, *, tokenizer=None, expect=None, stats=None):
    """Read a split of one dataset directory, or of several that belong together.

    Args:
      directories: written by `builder.export`: a path, paths joined by commas, or a
        sequence of paths.
      split: "train", "validation" or "test".
      tokenizer: name that the dataset must have been made with.
      expect: more that metadata.json must say, e.g. {"face_model": "stand_in",
        "base_dim": 512}.
      stats: statistics to normalise by; by default those of the train splits, joined.

    Returns:
      `Dataset`, the clips of each directory sorted by corpus and clip_id.

    Raises:
      FileNotFoundError: no finished dataset there.
      ValueError: another tokenizer, width or face model than asked for (names both), or
        a corrupt or missing shard (names it).
    """
    directories = _paths(directories)
    expect = ({"tokenizer": tokenizer} if tokenizer else {}) | (expect or {})
    metadata = [read_metadata(path, expect) for path in directories]
    _check_alike(directories, metadata)
    if stats is None:
        stats = join_stats(directories)
    _check_width(directories[0], metadata[0], stats)
    clips = [
        clip
        for path, facts in zip(directories, metadata, strict=True)
        for clip in _read_split(path, split, facts, stats)
    ]
    names = collections.Counter((clip.corpus, clip.clip_id) for clip in clips)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ValueError(
            f"{len(twice)} clips come twice, such as {twice[0]}; name each directory "
            "once, and export corpora of one kind with different seeds"
        )
    state = directories[0] / "tokenizer_state.npz"
    return Dataset(clips, _joined(metadata), stats, state if state.exists() else None)


def describe(directories):
    """metadata.json of each of the directories, as a list of dicts."""
    return [read_metadata(path) for path in _paths(directories)]


def evaluation_clips(directories, split="test", *, stats, expect=None, limit=None):
    """Whole clips of a split with *raw* motion; tokens standardised by `stats`.

    Args:
      stats: those of the model under test, not of the dataset.
      limit: only so many clips, evenly spread over the split.

    Returns:
      list of `Clip`; raises as `load` does.
    """
    unscaled = stats._replace(
        motion_mean=np.zeros(mo.F, np.float32), motion_std=np.ones(mo.F, np.float32)
    )
    clips = load(directories, split, expect=expect, stats=unscaled).clips
    few = min(limit or len(clips), len(clips))
    return [clips[k * len(clips) // few] for k in range(few)]


def read_metadata(directory, expect=None):
    """metadata.json of a complete dataset, checked against `expect`.

    Raises:
      FileNotFoundError: there is none. ValueError: it differs; names both.
    """
    path = pathlib.Path(directory) / "metadata.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"no finished dataset in {directory} (metadata.json is missing); make one "
            f"with `python -m tools.export_tokens --out {directory}`, which also "
            "finishes an interrupted export"
        )
    metadata = json.loads(path.read_text())
    for key, wanted in (expect or {}).items():
        if key not in metadata:
            raise ValueError(f"{path} has no {key!r}; it has {sorted(metadata)}")
        if metadata[key] != wanted:
            raise ValueError(
                f"{directory} was exported with {key} {metadata[key]!r}, but "
                f"{wanted!r} is asked for; export it again or change the config"
            )
    return metadata


def join_stats(directories):
    """Statistics of the joined train splits of several directories, from stats.json."""
    texts = [(path / "stats.json").read_text() for path in _paths(directories)]
    parts = [mo.Stats.from_json(text) for text in texts]
    if len(parts) == 1:
        return parts[0]
    weights = [json.loads(text) for text in texts]
    frames = np.array([w["motion_frames"] for w in weights], np.float64)
    tokens = np.array([w["token_count"] for w in weights], np.float64)
    columns = [np.stack(c).astype(np.float64) for c in zip(*parts, strict=True)]
    motion_mean, motion_std, token_mean, token_std = columns
    return mo.Stats(
        np.average(motion_mean, axis=0, weights=frames).astype(np.float32),
        # The mean within-clip std, as in `motion.motion_stats`, is linear in frames.
        np.average(motion_std, axis=0, weights=frames).astype(np.float32),
        *_joined_moments(token_mean, token_std, tokens),
    )


def _joined_moments(means, stds, counts):
    """(mean, std) [A] f32 of sets [n, A] of `counts` [n] tokens, taken as one."""
    mean = np.average(means, axis=0, weights=counts)
    square = np.average(stds**2 + means**2, axis=0, weights=counts)
    std = np.sqrt(np.maximum(square - mean**2, 0))
    return mean.astype(np.float32), std.astype(np.float32)


def foreign_stats(directories):
    """(mean, std) [A'] of the foreign tokens at the base rate, train splits joined.

    Raises:
      ValueError: a dataset without a second tokenizer.
    """
    found = []
    for path in _paths(directories):
        stats = json.loads((path / "stats.json").read_text())
        if "foreign_mean" not in stats:
            raise ValueError(
                f"{path} holds no second tokenizer's embeddings; export it with "
                "tools.export_tokens --foreign NAME"
            )
        found.append(stats)
    counts = [stats["token_count"] for stats in found]
    means, stds = (
        np.array([stats[key] for stats in found])
        for key in ("foreign_mean", "foreign_std")
    )
    return _joined_moments(means, stds, counts)


def _paths(directories):
    if isinstance(directories, str):
        directories = [d for d in directories.split(",") if d]
    elif isinstance(directories, os.PathLike):
        directories = [directories]
    paths = [pathlib.Path(d) for d in directories]
    if not paths:
        raise ValueError("no dataset directory was named")
    return paths


def _check_alike(directories, metadata):
    alike = ("tokenizer", "tokenizer_hash", "base_dim", "face_model", "head_joint")
    for key in (*alike, "foreign"):
        for path, facts in zip(directories, metadata, strict=True):
            if facts.get(key) != metadata[0].get(key):
                raise ValueError(
                    f"datasets do not belong together: {key} is "
                    f"{metadata[0].get(key)!r} in {directories[0]} but "
                    f"{facts.get(key)!r} in {path}"
                )


def _check_width(directory, metadata, stats):
    width = len(stats.token_mean)
    if metadata["base_dim"] != width:
        raise ValueError(
            f"{directory} has tokens of width {metadata['base_dim']} at the base rate "
            f"({metadata['tokenizer']}), but the statistics have {width}"
        )


def _joined(metadata):
    if len(metadata) == 1:
        return metadata[0]
    corpora = "+".join(facts["corpus"] for facts in metadata)
    return {**metadata[0], "corpus": corpora, "directories": metadata}


def raw_clips(directory, split):
    """Clips of a split one by one, raw motion, without tokens: any size of dataset.

    Yields:
      `Clip` whose tokens are [S, 0], in the order of the shards; raises as `load` does,
      and yields nothing for a split that the dataset lacks.
    """
    facts = read_metadata(directory)
    stats = join_stats([directory])._replace(
        motion_mean=np.zeros(mo.F, np.float32), motion_std=np.ones(mo.F, np.float32)
    )
    if facts["clips"].get(split):
        for shard in records.shards(directory, split):
            for example in shard:
                clip = _to_clip(example, facts, stats)
                yield dataclasses.replace(clip, tokens=clip.tokens[:, :0])


def _read_split(directory, split, facts, stats):
    clips = [
        _to_clip(example, facts, stats)
        for shard in records.shards(directory, split)
        for example in shard
    ]
    return sorted(clips, key=lambda clip: (clip.corpus, clip.clip_id))


def _to_clip(example, facts, stats):
    text = {k: example[k].decode() for k in ("clip_id", "speaker_id", "corpus")}
    tokens = mo.to_token_rate(example["tokens"], facts["rate_hz"])
    foreign = example.get("foreign")
    if foreign is not None:
        foreign = mo.to_token_rate(foreign, facts["foreign"]["rate_hz"])
    lips = example.get("lips", ())
    return Clip(
        **text,
        # A dead coefficient rests at its mean: zero, whatever the file holds.
        motion=(stats.normalise(example["motion"]) * stats.live).astype(np.float32),
        tokens=stats.standardise(tokens).astype(np.float32),
        shape=example["shape"],
        codes=example.get("codes"),
        audio=example.get("audio"),
        lips=lips if len(lips) else None,
        foreign=foreign,
        emotion=int(example["emotion"]),
        intensity=int(example["intensity"]),
        loudness=example.get("loudness"),
        phonemes=_phonemes(example),
    )


def _phonemes(example):
    if "phonemes" not in example:
        return ()
    seconds = (example["phoneme_ms"] / 1000).tolist()
    spans = zip(seconds, example["phonemes"], strict=True)
    return tuple((start, end, symbol.decode()) for (start, end), symbol in spans)
