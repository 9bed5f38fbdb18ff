"""A folder of speech without faces: a trained model makes them.

What an adapter is distilled on where there is sound alone, and no pair of a camera.
"""

import itertools
import pathlib

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.data.audio import read_audio
from toktalk_jax.data.corpora import splits
from toktalk_jax.data.schema import MIN_SECONDS, RawClip

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
LEAST, MOST = int(MIN_SECONDS * mo.SAMPLE_RATE), 20 * mo.SAMPLE_RATE  # of a clip
TOGETHER = 25  # clips that are acted at once


def read(source, act, on_skip=lambda clip_id, reason: None, each=iter):
    """Clips of all sound files under a folder, split by file.

    Args:
      source: the folder; the folder of a file in it is its speaker.
      act: list of `schema.RawClip` without motion to the same with it.
      on_skip: called with (clip_id, reason) for a file that cannot be read.
      each: wraps the list of what is read (tqdm).

    Yields:
      `schema.RawClip`; a tail shorter than a clip may be is left out.

    Raises:
      FileNotFoundError: no sound file. ValueError: fewer than three: none is held out.
    """
    source = pathlib.Path(source).resolve()
    files = {
        path.relative_to(source).as_posix(): path
        for path in sorted(source.rglob("*"))
        if path.suffix.lower() in SUFFIXES
    }
    if not files:
        raise FileNotFoundError(
            f"no sound in {source}; expected files {', '.join(SUFFIXES)}"
        )
    of_file = splits.shares(files)

    def cut():
        for name in each(sorted(files)):
            try:
                audio = read_audio(files[name])
            except (ValueError, OSError) as problem:
                on_skip(name, str(problem))
                continue
            if len(audio) < LEAST:
                on_skip(name, f"{len(audio) / mo.SAMPLE_RATE:.2f} s of sound")
            for k, start in enumerate(range(0, len(audio), MOST)):
                part = audio[start : start + MOST]
                if len(part) < LEAST:
                    continue
                yield RawClip(
                    clip_id=f"{name}/{k:03d}",
                    speaker_id=str(pathlib.PurePosixPath(source.name, name).parent),
                    corpus="sound",
                    split=of_file[name],
                    audio=part,
                    motion=np.zeros((0, mo.F), np.float32),
                )

    clips = cut()
    while group := list(itertools.islice(clips, TOGETHER)):
        yield from act(group)
