"""What `tools/track_video.py` leaves: PERSON/CLIP.wav and .npz, on one head."""

import hashlib
import pathlib

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.data.audio import read_audio
from toktalk_jax.data.corpora import coefficients, splits
from toktalk_jax.data.schema import BadClip, RawClip
from toktalk_jax.flame.landmarks import LIPS

PEOPLE = 8  # with fewer, whole people cannot be held out: clips are


def read(source, face_hash, on_skip=lambda clip_id, reason: None, each=iter):
    """Clips of all people.

    Args:
      source: folder of `track_video --out`.
      face_hash: of the head that the motion must be on.
      on_skip: called with (clip_id, reason) for a clip that cannot be used.
      each: wraps the list of what is read (tqdm).

    Yields:
      `schema.RawClip` with `lips`; split by person, of fewer than eight by clip.

    Raises:
      FileNotFoundError: no clip there.
      ValueError: too few clips to hold any out.
    """
    source = pathlib.Path(source)
    paths = sorted(source.glob("*/*.npz"))
    if not paths:
        raise FileNotFoundError(
            f"no PERSON/CLIP.npz in {source}; --source is the --out of "
            "tools/track_video.py"
        )
    people = {path.parent.name for path in paths}
    by_person = len(people) >= PEOPLE
    key = lambda path: path.parent.name if by_person else path  # noqa: E731
    of = splits.shares({*map(key, paths)})
    for path in each(paths):
        clip_id = f"{path.parent.name}/{path.stem}"
        try:
            motion, _ = coefficients.read_npz(path)
            audio = read_audio(path.with_name(f"{path.stem}.wav"))
            lips = _lips(path, face_hash, len(motion))
        except (ValueError, OSError) as problem:
            on_skip(clip_id, str(problem))
            continue
        yield RawClip(
            clip_id=clip_id,
            speaker_id=path.parent.name,
            corpus="tracked",
            split=of[key(path)],
            audio=audio,
            motion=motion,
            lips=lips,
        )


def fingerprint(source):
    """12 hex digits over the clips' names and what was tracked of them."""
    digest = hashlib.sha256()
    for path in sorted(pathlib.Path(source).glob("*/*.npz")):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.parent.name}/{path.name} {content}\n".encode())
    return digest.hexdigest()[:12]


def _lips(path, face_hash, frames):
    """Tracked lips [T, 40, 3] of a clip, which must be on the right head; NaN in
    frames without a face."""
    with np.load(path, allow_pickle=False) as raw:
        if missing := {"lips", "face_hash", "fps", "detected"} - {*raw.files}:
            raise BadClip(f"{path.name} lacks {sorted(missing)}; track it again")
        if str(raw["face_hash"]) != face_hash:
            raise BadClip(
                f"{path.name} is on head {raw['face_hash']}, asked for is {face_hash}"
            )
        lips, detected = raw["lips"], raw["detected"]
    if lips.shape != (frames, len(LIPS), 3) or frames < mo.FPS * 0.4:
        raise BadClip(f"lips are {lips.shape}; expected [{frames}, {len(LIPS)}, 3]")
    if detected.shape != (frames,):
        raise BadClip(f"detected is {detected.shape}; expected [{frames}]")
    return np.where(detected[:, None, None], lips, np.float32(np.nan))
