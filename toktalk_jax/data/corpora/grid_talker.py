"""A GRID talker's folder: sound, tracked landmarks, head pose and word times.

`audio_16k.flac` holds all clips one after the other, `tracks.npz` the landmark
components and head pose of every frame (25 fps), `word_alignments.json` the words.
"""

import json
import pathlib
import re
import zipfile
from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from toktalk_jax import motion as mo
from toktalk_jax.flame import landmarks

FILES = ("audio_16k.flac", "tracks.npz", "word_alignments.json")
# What NumPy raises for an npz that is not one, or is cut short.
BROKEN_FILE = (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile)
SILENCE = ("sil", "sp")
CLOSED_SHARE = 0.3  # of a talker's silent frames, the closed ones are the neutral


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
    for name in FILES:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"no {name} in {folder}; a GRID talker's folder holds {FILES}"
            )
    tracks = _load_tracks(folder / "tracks.npz")
    with open(folder / "word_alignments.json", encoding="utf-8") as file:
        words = {
            clip: [(float(a), float(b), str(w)) for a, b, w in rows]
            for clip, rows in json.load(file).items()
        }
    return Talker(
        folder,
        talker_name(folder),
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
    except BROKEN_FILE as error:
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


def talker_name(folder):
    """The talker's name, "s1" out of a folder such as grid_s1; else the folder's."""
    found = re.search(r"s\d+$", folder.resolve().name)
    return found.group() if found else folder.resolve().name


def neck_of_pose(pose):
    """Neck axis-angle [T, 3] of head poses [T, 6], relative to their median."""
    turn = Rotation.from_rotvec(np.asarray(pose, np.float64)[:, :3])
    middle = Rotation.from_rotvec(np.nanmedian(turn.as_rotvec(), axis=0))
    return (middle.inv() * turn).as_rotvec().astype(np.float32)


def normalised_landmarks(talker, clip_id):
    """Raw tracked landmarks [T, 478, 3] of a clip, pose and size taken out."""
    return _landmarks(talker, talker.components[clip_frames(talker, clip_id)])


def _landmarks(talker, components):
    shape = (len(components), landmarks.LANDMARKS, 3)
    flat = components @ talker.basis.reshape(len(talker.basis), -1)
    return talker.mean[None] + flat.reshape(shape)


def clip_frames(talker, clip_id):
    """Slice of a clip's frames among the talker's."""
    at = talker.clip_ids.index(clip_id)
    return slice(int(talker.frame_offset[at]), int(talker.frame_offset[at + 1]))


def raw_gap(talker, clip_id, scale=1.0):
    """Inner-lip gap [T] of the raw landmarks, `scale` mm per landmark unit."""
    return scale * landmarks.inner_lip_gap(normalised_landmarks(talker, clip_id))


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
    usable = talker.detected & np.isfinite(talker.components).all(1)
    rows = np.flatnonzero(silent_frames(talker) & usable)
    if not len(rows):
        raise ValueError(f"{talker.folder}: no silent frame in the word times")
    gap = np.concatenate(
        [
            landmarks.inner_lip_gap(_landmarks(talker, talker.components[part]))
            for part in np.array_split(rows, -(-len(rows) // 500))
        ]
    )
    closed = rows[gap <= np.quantile(gap, CLOSED_SHARE)]
    return _landmarks(talker, np.median(talker.components[closed], 0)[None])[0]


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
            f"talker's folder with {FILES}, or a folder of such folders"
        )
    return found
