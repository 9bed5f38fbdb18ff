"""Make watch.html from motion files.

    python -m toktalk_jax.page out/motion.npz --out watch.html
    python -m toktalk_jax.page prediction.npz truth.npz --audio speech.wav \
        --head FLAME2023.pkl --out watch.html

A motion file is the motion.npz of `toktalk_jax.sample`: motion [T, 56], and optionally
audio [L] i16, sample_rate, head_joint and chunk_frames. The sound is the first file's.
"""

import argparse
import pathlib
import sys
import zipfile

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.flame.assets import load_head
from toktalk_jax.page.write import MOST_TRACKS, write_page


def main(arguments=None):
    """Parse the command line, write the page, print its path."""
    parser = argparse.ArgumentParser("python -m toktalk_jax.page", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("motion", nargs="+", help="one or two motion files")
    parser.add_argument("--audio", help="sound file; default: the first motion file's")
    parser.add_argument("--head", help="FLAME pickle or npz; default: the stand-in")
    parser.add_argument("--title", default="TokTalk")
    parser.add_argument("--out", default="watch.html")
    flags = parser.parse_args(arguments)
    if len(flags.motion) > MOST_TRACKS:
        parser.error(f"{len(flags.motion)} motion files; a page shows one or two")
    try:
        print(_make(flags))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def _make(flags):
    takes = [_read(path) for path in flags.motion]
    first = takes[0]
    if len({take["head_joint"] for take in takes}) > 1:
        raise ValueError("the files turn different head joints; show them apart")
    if flags.audio:
        from toktalk_jax.data.audio import read_audio

        audio, rate = read_audio(flags.audio), mo.SAMPLE_RATE
    elif "audio" in first:
        audio = first["audio"].astype(np.float32) / 32767
        rate = int(first.get("sample_rate", mo.SAMPLE_RATE))
    else:
        raise ValueError(f"{flags.motion[0]} holds no sound; give --audio FILE")
    tracks = [
        (pathlib.Path(path).stem, take["motion"])
        for path, take in zip(flags.motion, takes, strict=True)
    ]
    info = {key: str(first[key]) for key in ("checkpoint", "style") if key in first}
    if "chunk_frames" in first:
        info["chunk_frames"] = int(first["chunk_frames"])
    head = load_head(flags.head)
    joint = first["head_joint"]
    return write_page(flags.out, head, tracks, audio, rate, flags.title, info, joint)


def _read(path):
    try:
        with np.load(path, allow_pickle=False) as stored:
            take = dict(stored)
    except (ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a whole .npz file ({error})") from None
    if "motion" not in take:
        raise ValueError(f"{path} holds no motion [T, {mo.F}]; it has {sorted(take)}")
    take["head_joint"] = str(take.get("head_joint", "neck"))
    return take


if __name__ == "__main__":
    main()
