"""RAVDESS: acted emotions, 24 actors; sound by Livingstone and Russo (2018).

Folders Actor_XX hold wav files named by seven fields of two digits, modality, channel,
emotion, intensity, statement, repetition, actor, and beside each an npz of the same
stem with the tracker's FLAME coefficients (`coefficients.read_npz`). Split by actor.
"""

import pathlib
import re
from typing import NamedTuple

from toktalk_jax.data.audio import read_audio
from toktalk_jax.data.corpora import coefficients, splits
from toktalk_jax.data.schema import BadClip, RawClip

EMOTIONS = (
    *("neutral", "calm", "happy", "sad"),
    *("angry", "fearful", "disgust", "surprised"),
)
NAME = re.compile(r"\d\d(-\d\d){6}")
ACTORS = 24


class Fields(NamedTuple):
    """What a file's name says; emotion 1 to 8, intensity 1 normal, 2 strong."""

    modality: int
    channel: int
    emotion: int
    intensity: int
    statement: int
    repetition: int
    actor: int


def parse(stem):
    """`Fields` of a file name without its ending.

    Raises:
      BadClip: not seven fields, or one out of its range.
    """
    if not NAME.fullmatch(stem):
        raise BadClip(f"{stem!r} is not seven fields of two digits (03-01-05-02-...)")
    fields = Fields(*map(int, stem.split("-")))
    limits = Fields(3, 2, len(EMOTIONS), 2, 2, 2, ACTORS)
    for name, value, limit in zip(Fields._fields, fields, limits, strict=True):
        if not 1 <= value <= limit:
            raise BadClip(f"{stem}: {name} is {value}; expected 1 to {limit}")
    return fields


def read(source, on_skip=lambda clip_id, reason: None, each=iter):
    """Clips of all actors.

    Args:
      source: folder that holds Actor_01 and so on.
      on_skip: called with (clip_id, reason) for a clip that cannot be used.
      each: wraps the list of what is read (tqdm).

    Yields:
      `schema.RawClip` with emotion 0 to 7 (`EMOTIONS`) and intensity 0 or 1.

    Raises:
      FileNotFoundError: no file in an Actor folder.
      ValueError: too few actors to hold any out.
    """
    source = pathlib.Path(source)
    found = {*source.glob("Actor_*/*.wav"), *source.glob("Actor_*/*.npz")}
    paths = sorted({path.with_suffix(".wav") for path in found})
    if not paths:
        raise FileNotFoundError(
            f"no Actor_XX/*.wav in {source}; --source is the folder of RAVDESS' "
            "actors, with an npz of coefficients beside each wav"
        )
    of_actor = splits.shares({path.parent.name for path in paths})
    for path in each(paths):
        clip_id = f"{path.parent.name}/{path.stem}"
        try:
            fields = parse(path.stem)
            if f"Actor_{fields.actor:02d}" != path.parent.name:
                raise BadClip(f"the name says actor {fields.actor}")
            motion, shape = coefficients.read_npz(path.with_suffix(".npz"))
            audio = read_audio(path)
        except (ValueError, OSError) as problem:
            on_skip(clip_id, str(problem))
            continue
        yield RawClip(
            clip_id=clip_id,
            speaker_id=path.parent.name,
            corpus="ravdess",
            split=of_actor[path.parent.name],
            audio=audio,
            motion=motion,
            shape=shape,
            emotion=fields.emotion - 1,
            intensity=fields.intensity - 1,
        )
