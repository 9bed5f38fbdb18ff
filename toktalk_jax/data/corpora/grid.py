"""GRID: one talker's sentences, tracked landmarks fitted to 56-d motion.

Cooke, Barker, Cunningham and Shao (2006), Zenodo 3625687. A talker's folder holds
`audio_16k.flac` (all clips one after the other), `tracks.npz` (landmark components and
head pose of every frame, 25 fps) and `word_alignments.json`. Every clip has 74 or 75
frames and one of them lies past the end of the sound.
"""

import hashlib
import importlib.resources
import json
import pathlib
import re
from typing import NamedTuple

import numpy as np
import soundfile
from scipy.spatial.transform import Rotation

from toktalk_jax import motion as mo
from toktalk_jax.data.schema import BadClip, RawClip
from toktalk_jax.flame import assets, fit

SPLITS = ("train", "validation", "test")
SILENCE = ("sil", "sp")
CLOSED_SHARE = 0.3  # of a talker's silent frames, the closed ones are the neutral
MAX_LOST = 0.2  # share of frames without a face above which a clip is skipped
SEED = 0
SHARES = (700 / 900, 750 / 900)  # ends of train and validation, by clip or talker
HELD_OUT_WORDS = {
    "letter": ("b", "o", "v", "y"),
    "digit": ("five",),
    "colour": ("white",),
}
_FILES = ("audio_16k.flac", "tracks.npz", "word_alignments.json")


class Talker(NamedTuple):
    """One talker's folder, opened.

    Attributes:
      name: "s1".
      clip_ids: in the folder's order.
      frame_offset, audio_offset: [clips + 1] first frame and sample of each.
      mean: [478, 3], basis: [K, 478, 3], components: [frames, K]: normalised landmarks
        are mean + components @ basis; x to the subject's left, y up, z to the camera.
      neck: [frames, 3] axis-angle relative to the talker's median pose.
      detected: [frames] False where the tracker lost the face.
      words: {clip id: [(start s, end s, word)]}.
    """

    folder: pathlib.Path
    name: str
    clip_ids: list
    frame_offset: np.ndarray
    audio_offset: np.ndarray
    mean: np.ndarray
    basis: np.ndarray
    components: np.ndarray
    neck: np.ndarray
    detected: np.ndarray
    words: dict


def open_talker(folder):
    """Open a talker's folder.

    Raises:
      FileNotFoundError: a file is missing; names it.
      ValueError: a file is not what it should be.
    """
    folder = pathlib.Path(folder)
    for name in _FILES:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"no {name} in {folder}; a GRID talker's folder holds {_FILES}"
            )
    tracks = _load_tracks(folder / "tracks.npz")
    with open(folder / "word_alignments.json", encoding="utf-8") as file:
        words = {
            clip: [(float(a), float(b), str(w)) for a, b, w in rows]
            for clip, rows in json.load(file).items()
        }
    return Talker(
        folder,
        _talker_name(folder),
        [str(c) for c in tracks["clip_ids"]],
        tracks["frame_offset"].astype(np.int64),
        tracks["audio_offset"].astype(np.int64),
        tracks["lm_mean"].astype(np.float32),
        tracks["lm_basis"].astype(np.float32),
        tracks["lm_coef"].astype(np.float32),
        neck_of_pose(tracks["pose"]),
        tracks["detected"].astype(bool),
        words,
    )


def _load_tracks(path):
    needed = ("clip_ids", "frame_offset", "audio_offset", "lm_mean", "lm_basis")
    needed += ("lm_coef", "pose", "detected", "fps")
    try:
        with np.load(path, allow_pickle=False) as stored:
            tracks = {key: stored[key] for key in needed}
    except (KeyError, ValueError, OSError, EOFError) as error:
        raise ValueError(
            f"{path} is no GRID track file ({error}); expected {needed}"
        ) from error
    if float(tracks["fps"]) != mo.FPS:
        raise ValueError(f"{path} runs at {float(tracks['fps'])} fps, not {mo.FPS}")
    frames = int(tracks["frame_offset"][-1])
    for key in ("lm_coef", "pose", "detected"):
        if len(tracks[key]) != frames:
            raise ValueError(
                f"{path}: {key} has {len(tracks[key])} frames; frame_offset ends at "
                f"{frames}"
            )
    return tracks


def _talker_name(folder):
    found = re.search(r"s\d+$", folder.resolve().name)
    return found.group() if found else folder.resolve().name


def neck_of_pose(pose):
    """Neck axis-angle [T, 3] of head poses [T, 6], relative to their median rotation."""
    turn = Rotation.from_rotvec(np.asarray(pose, np.float64)[:, :3])
    middle = Rotation.from_rotvec(np.median(turn.as_rotvec(), axis=0))
    return (middle.inv() * turn).as_rotvec().astype(np.float32)


def normalised_landmarks(talker, clip_id):
    """Raw tracked landmarks [T, 478, 3] of a clip, pose and size taken out."""
    at = talker.clip_ids.index(clip_id)
    rows = slice(talker.frame_offset[at], talker.frame_offset[at + 1])
    return _landmarks(talker, talker.components[rows])


def _landmarks(talker, components):
    shape = (len(components), fit.LANDMARKS, 3)
    flat = components @ talker.basis.reshape(len(talker.basis), -1)
    return talker.mean[None] + flat.reshape(shape)


def raw_gap(talker, clip_id, scale=1.0):
    """Inner-lip gap [T] of the raw landmarks, `scale` mm per landmark unit."""
    return scale * fit.inner_lip_gap(normalised_landmarks(talker, clip_id))


def silent_frames(talker):
    """[frames] bool: wholly inside a silence of the word times."""
    silent = np.zeros(len(talker.components), bool)
    for at, clip in enumerate(talker.clip_ids):
        first, last = talker.frame_offset[at : at + 2]
        for start, end, word in talker.words.get(clip, ()):
            if word in SILENCE:
                begin = first + int(np.ceil(start * mo.FPS))
                silent[begin : min(first + int(end * mo.FPS), last)] = True
    return silent


def talker_neutral(talker):
    """The talker's resting face [478, 3]: median of silent frames with closed lips.

    Raises:
      ValueError: there is no silent frame.
    """
    rows = np.flatnonzero(silent_frames(talker) & talker.detected)
    if not len(rows):
        raise ValueError(f"{talker.folder}: no silent frame in the word times")
    gap = np.concatenate(
        [
            fit.inner_lip_gap(_landmarks(talker, talker.components[part]))
            for part in np.array_split(rows, -(-len(rows) // 500))
        ]
    )
    closed = rows[gap <= np.quantile(gap, CLOSED_SHARE)]
    return _landmarks(talker, np.median(talker.components[closed], 0)[None])[0]


def fit_clip(talker, clip_id, head, neutral, **options):
    """`fit.Fit` of one clip, the neck from the pose; options as `fit.fit_landmarks`."""
    at = talker.clip_ids.index(clip_id)
    rows = slice(talker.frame_offset[at], talker.frame_offset[at + 1])
    return fit.fit_landmarks(
        head,
        _landmarks(talker, talker.components[rows]),
        neutral,
        neck=talker.neck[rows],
        **options,
    )


def fit_talker(talker, head, cache=None, progress=None):
    """Unfiltered motion [frames, 56] of every clip of a talker.

    Args:
      cache: npz to read the fit from, or to keep it in, when it was made from the same
        tracks, map and head (a hash inside tells); the fit of 45 minutes takes minutes.
      progress: wraps the iterable of clip ids (tqdm).
    """
    key = _fit_key(talker, head)
    if (
        cache is not None
        and (found := _from_cache(pathlib.Path(cache), key)) is not None
    ):
        return found
    neutral = talker_neutral(talker)
    clips = talker.clip_ids if progress is None else progress(talker.clip_ids)
    motion = np.concatenate([fit_clip(talker, c, head, neutral).motion for c in clips])
    if cache is not None:
        cache = pathlib.Path(cache)
        cache.parent.mkdir(parents=True, exist_ok=True)
        temporary = cache.with_name(f"{cache.stem}.tmp.npz")
        np.savez(temporary, key=np.array(key), motion=motion)
        temporary.replace(cache)
    return motion


def _fit_key(talker, head):
    digest = hashlib.sha256(fit.version(head).encode())
    for array in (talker.mean, talker.basis, talker.components, talker.neck):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(json.dumps(talker.words, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _from_cache(path, key):
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            return stored["motion"] if str(stored["key"]) == key else None
    except (KeyError, ValueError, OSError, EOFError):
        return None  # a broken cache is made anew


def split_of(talker, rule="clip", talkers=("s1",)):
    """{clip id: "train", "validation" or "test"}.

    Args:
      rule: "clip": one talker by the committed list (700/50/150 of s1; the same seeded
        shuffle for another), several talkers by talker. "words": every clip that holds
        one of `HELD_OUT_WORDS` is test.

    Raises:
      ValueError: an unknown rule.
    """
    if rule == "words":
        held = {w for words in HELD_OUT_WORDS.values() for w in words}
        spoken = {c: {w for *_, w in talker.words.get(c, ())} for c in talker.clip_ids}
        splits = {c: "test" for c in talker.clip_ids if spoken[c] & held}
        rest = _shuffled([c for c in talker.clip_ids if c not in splits])
        cut = round(len(rest) * SHARES[0] / SHARES[1])
        return splits | {c: SPLITS[k >= cut] for k, c in enumerate(rest)}
    if rule != "clip":
        raise ValueError(f"split rule is {rule!r}; expected 'clip' or 'words'")
    if len(talkers) > 1:
        return dict.fromkeys(talker.clip_ids, _by_share(talkers)[talker.name])
    listed = committed_split()
    if set(talker.clip_ids) <= set(listed):
        return listed
    return _by_share(talker.clip_ids)


def committed_split():
    """{clip id: split} of talker s1 as committed in `grid_split.json`."""
    place = importlib.resources.files("toktalk_jax.data.corpora") / "grid_split.json"
    lists = json.loads(place.read_text(encoding="utf-8"))
    return {clip: split for split in SPLITS for clip in lists[split]}


def _shuffled(names):
    names = sorted(names)
    return [names[k] for k in np.random.default_rng(SEED).permutation(len(names))]


def _by_share(names):
    """Seeded shuffle cut at 700/900 and 750/900."""
    cuts = [round(len(names) * share) for share in SHARES]
    return {
        name: SPLITS[int(k >= cuts[0]) + int(k >= cuts[1])]
        for k, name in enumerate(_shuffled(names))
    }


def talker_folders(source):
    """Folders of the talkers under `source`: itself, or its subfolders with tracks.

    Raises:
      FileNotFoundError: neither holds a `tracks.npz`.
    """
    source = pathlib.Path(source)
    if (source / "tracks.npz").is_file():
        return [source]
    found = sorted(path.parent for path in source.glob("*/tracks.npz"))
    if not found:
        raise FileNotFoundError(
            f"no tracks.npz in {source} nor in its subfolders; --source is a GRID "
            f"talker's folder with {_FILES}, or a folder of such folders"
        )
    return found


def read(
    source,
    on_skip=lambda clip_id, reason: None,
    *,
    split="clip",
    clips=None,
    cache=None,
    head=None,
    filtered=True,
    progress=None,
):
    """Clips of GRID with fitted motion.

    Args:
      source: a talker's folder, or a folder of them.
      on_skip: called with (clip_id, reason) for a clip that cannot be used.
      split: "clip" or "words" (`split_of`).
      clips: ids to read; None is all.
      cache: file (one talker) or folder that keeps the fits (`fit_talker`); without it
        each clip is fitted as it is asked for.
      head: the head to fit; None is the stand-in.
      filtered: False leaves out the published Savitzky-Golay filters.
      progress: wraps the clip ids while a whole talker is fitted.

    Yields:
      `schema.RawClip`; `phonemes` holds the words with their times.

    Raises:
      FileNotFoundError: the source or one of its files is missing.
      ValueError: a file is not what it should be; an unknown split rule.
    """
    folders = talker_folders(source)
    head = assets.load_head() if head is None else head
    names = [_talker_name(folder) for folder in folders]
    for folder, name in zip(folders, names, strict=True):
        talker = open_talker(folder)
        splits = split_of(talker, split, names)
        motion = None
        if cache is not None:
            many = len(folders) > 1 or pathlib.Path(cache).suffix != ".npz"
            kept = pathlib.Path(cache) / f"grid_{name}_fit.npz" if many else cache
            motion = fit_talker(talker, head, kept, progress)
        neutral = talker_neutral(talker) if motion is None else None
        for clip_id in talker.clip_ids if clips is None else clips:
            try:
                yield _clip(talker, clip_id, splits, motion, head, neutral, filtered)
            except BadClip as problem:
                on_skip(f"{name}/{clip_id}", str(problem))


def _clip(talker, clip_id, splits, motion, head, neutral, filtered):
    if clip_id not in talker.clip_ids:
        raise BadClip(f"not among the {len(talker.clip_ids)} clips of {talker.folder}")
    at = talker.clip_ids.index(clip_id)
    rows = slice(talker.frame_offset[at], talker.frame_offset[at + 1])
    lost = 1 - talker.detected[rows].mean()
    if lost > MAX_LOST:
        raise BadClip(f"the tracker lost the face in {lost:.0%} of the frames")
    if not np.isfinite(talker.components[rows]).all():
        raise BadClip("landmarks hold NaN or Inf values")
    audio = _audio(talker, at)
    if motion is None:
        own = fit_clip(talker, clip_id, head, neutral).motion
    else:
        own = motion[rows]
    return RawClip(
        clip_id=f"{talker.name}/{clip_id}",
        speaker_id=talker.name,
        corpus="grid",
        split=splits[clip_id],
        audio=audio,
        motion=fit.smooth(own) if filtered else own,
        phonemes=tuple(talker.words.get(clip_id, ())),
    )


def _audio(talker, at):
    start, stop = (int(k) for k in talker.audio_offset[at : at + 2])
    path = talker.folder / "audio_16k.flac"
    try:
        audio, rate = soundfile.read(path, start=start, stop=stop, dtype="float32")
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise BadClip(f"{path.name} cannot be read at {start}: {error}") from error
    if rate != mo.SAMPLE_RATE or audio.ndim != 1:
        raise BadClip(f"{path.name} is {rate} Hz {audio.shape}, not 16 kHz mono")
    if len(audio) != stop - start:
        raise BadClip(
            f"{path.name} ends after {len(audio)} of the clip's {stop - start} samples"
        )
    return audio
