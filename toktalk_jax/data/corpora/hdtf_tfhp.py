"""HDTF and TFHP as DiffPoseTalk packs them, or as plain folders of wav and npz.

The LMDB holds pickled values: `person/video/metadata` {n_frames} and
`person/video/segment` {audio: FLAC bytes, coef: {shape, exp, pose}}, segments of 100
frames at 25 fps. Pickles come from strangers: only NumPy arrays and plain containers
are read. pose is the head's rotation, applied at the root, then the jaw's.
"""

import contextlib
import io
import pathlib
import pickle

import numpy as np
import soundfile

from toktalk_jax.data.audio import read_audio, to_mono_16k
from toktalk_jax.data.corpora import coefficients, splits
from toktalk_jax.data.schema import BadClip, RawClip
from toktalk_jax.flame import pickles

HEAD_JOINT = "root"
HELD_OUT = 64  # speakers each for validation and test, of 588
SPEAKERS = 588
LISTS = {"train": "train.txt", "validation": "val.txt", "test": "test.txt"}


def read(source, on_skip=lambda clip_id, reason: None, each=iter, seed=0):
    """Clips of the corpus.

    Args:
      source: folder of the LMDB (data.mdb), or of person/video.wav with video.npz
        (`coefficients.read_npz`). train.txt, val.txt and test.txt in it, one
        person/video a line, are its split; without them speakers are drawn.
      on_skip: called with (clip_id, reason) for a clip that cannot be used.
      each: wraps the list of what is read (tqdm).
      seed: of the draw.

    Yields:
      `schema.RawClip`, clip_id "person/video".

    Raises:
      FileNotFoundError: neither layout is there.
      ValueError: a damaged database, or too few speakers to hold any out.
      ImportError: lmdb is not installed.
    """
    source = pathlib.Path(source)
    packed = (source / "data.mdb").is_file()
    with _database(source) if packed else _folders(source) as (clips, load):
        if not clips:
            raise FileNotFoundError(
                f"no clips in {source}; expected DiffPoseTalk's LMDB (data.mdb), or "
                "person/video.wav with person/video.npz"
            )
        of_clip = _split(source, clips, seed)
        for clip_id in each(clips):
            try:
                if clip_id not in of_clip:
                    raise BadClip(f"in none of {', '.join(LISTS.values())}")
                audio, motion, shape = load(clip_id)
            except (ValueError, OSError) as problem:
                on_skip(clip_id, str(problem))
                continue
            yield RawClip(
                clip_id=clip_id,
                speaker_id=clip_id.split("/")[0],
                corpus="hdtf_tfhp",
                split=of_clip[clip_id],
                audio=audio,
                motion=motion,
                shape=shape,
            )


def split_rule(source):
    """How `read` splits this folder, for metadata.json."""
    if all((pathlib.Path(source) / name).is_file() for name in LISTS.values()):
        return f"by speaker: {', '.join(LISTS.values())} of the source"
    return f"by speaker, seeded: 460/64/64 of {SPEAKERS}"


def _split(source, clips, seed):
    """{clip id: split} from the txt lists, or by speaker with DiffPoseTalk's rule."""
    lists = {split: source / name for split, name in LISTS.items()}
    there = [path for path in lists.values() if path.is_file()]
    if there and len(there) < len(lists):
        raise ValueError(
            f"{source} holds {', '.join(path.name for path in there)} but not all of "
            f"{', '.join(LISTS.values())}; a split needs all three, or none"
        )
    if there:
        return {
            line.strip(): split
            for split, path in lists.items()
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.strip()
        }
    people = {clip_id.split("/")[0] for clip_id in clips}
    held = max(1, round(HELD_OUT * len(people) / SPEAKERS))
    of_person = splits.last(people, held, held, seed)
    return {clip_id: of_person[clip_id.split("/")[0]] for clip_id in clips}


@contextlib.contextmanager
def _folders(source):
    """(clip ids in order, clip id -> (audio, motion, shape)) of plain folders."""
    clips = {
        f"{path.parent.name}/{path.stem}"
        for ending in ("wav", "flac", "npz")
        for path in source.glob(f"*/*.{ending}")
    }
    yield sorted(clips), lambda clip_id: _from_files(source / clip_id)


def _from_files(stem):
    motion, shape = coefficients.read_npz(stem.with_name(f"{stem.name}.npz"))
    wav, flac = (stem.with_name(f"{stem.name}.{ending}") for ending in ("wav", "flac"))
    return read_audio(flac if flac.is_file() else wav), motion, shape


@contextlib.contextmanager
def _database(source):
    """(clip ids in order, clip id -> (audio, motion, shape)) of an LMDB."""
    try:
        import lmdb
    except ImportError as error:
        raise ImportError(
            "DiffPoseTalk's corpus is an LMDB, and lmdb is not installed; install this "
            "project with the [corpora] extra"
        ) from error
    try:
        database = lmdb.open(
            str(source), readonly=True, lock=False, readahead=False, max_readers=1
        )
        with database.begin() as reading:
            keys = [bytes(key).decode() for key, _ in reading.cursor()]
    except (lmdb.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{source} is not a readable LMDB ({error})") from error
    ending = "/metadata"
    clips = sorted(key.removesuffix(ending) for key in keys if key.endswith(ending))
    segments = {clip_id: [] for clip_id in clips}
    for key in keys:
        clip_id, _, number = key.rpartition("/")
        if clip_id in segments and number.isdecimal():
            segments[clip_id].append(key)
    for parts in segments.values():  # past 999 the order of text is another
        parts.sort(key=lambda key: int(key.rpartition("/")[2]))

    def load(clip_id):
        with database.begin() as reading:
            values = [
                _value(reading.get(key.encode()), key)
                for key in (f"{clip_id}{ending}", *segments[clip_id])
            ]
        return _join(*values)

    try:
        yield clips, load
    finally:
        database.close()  # LMDB refuses to open it twice in a process


def _value(raw, key):
    try:
        return pickles.loads(raw)
    except pickle.UnpicklingError as error:
        raise BadClip(f"{key}: {error}") from error


def _join(metadata, *segments):
    """Segments as one clip: (audio [L] at 16 kHz, motion [T, 56], shape [100])."""
    waves, motions, shapes = [], [], []
    for k, segment in enumerate(segments):
        try:
            samples, rate = soundfile.read(
                io.BytesIO(segment["audio"]), dtype="float32", always_2d=True
            )
            coefs = segment["coef"]
            motions.append(coefficients.to_motion(coefs))
            shapes.append(coefficients.identity(coefs.get("shape")))
        except (KeyError, TypeError, AttributeError) as error:
            raise BadClip(f"segment {k} lacks {error}") from error
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise BadClip(f"segment {k}: its FLAC is broken ({error})") from error
        waves.append(to_mono_16k(samples, rate))
    frames = sum(map(len, motions))
    wanted = metadata.get("n_frames") if isinstance(metadata, dict) else None
    if not segments or frames != wanted:
        raise BadClip(
            f"{len(segments)} segments with {frames} frames; its metadata says {wanted}"
        )
    shape = np.mean(shapes, 0, dtype=np.float32)
    return np.concatenate(waves), np.concatenate(motions), shape
