"""FACEGOOD Audio2Face: Mandarin speech with studio animation of the mouth, 30 fps.

MIT licence, github.com/FACEGOOD/FACEGOOD-Audio2Face. A folder holds <id>.flac, <id>.npz
(blendshapes [T, 116] in [0, 1], fps), blendshape_names.json and
arkit_from_facegood_max.json: the channels whose largest value is an ARKit score. One
voice, few and long clips: split by clip.
"""

import json
import pathlib

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.data.audio import read_audio
from toktalk_jax.data.corpora import coefficients, splits
from toktalk_jax.data.schema import BadClip, RawClip
from toktalk_jax.flame import arkit

NAMES, MAP = "blendshape_names.json", "arkit_from_facegood_max.json"


def read(source, on_skip=lambda clip_id, reason: None, each=iter):
    """Clips of the folder, as motion of the stand-in head.

    Args:
      source: the folder.
      on_skip: called with (clip_id, reason) for a clip that cannot be used.
      each: wraps the list of what is read (tqdm).

    Yields:
      `schema.RawClip`.

    Raises:
      FileNotFoundError: no folder, or it lacks the names, the map, or any clip.
      ValueError: a map that names unknown channels.
    """
    source = pathlib.Path(source)
    for name in (NAMES, MAP):
        if not (source / name).is_file():
            raise FileNotFoundError(
                f"no {name} in {source}; expected FACEGOOD's folder with {NAMES}, "
                f"{MAP}, and a .flac and an .npz for each clip"
            )
    channels, mapping = _json(source / NAMES, list), _json(source / MAP, dict)
    groups = _groups(mapping, channels)
    ids = sorted({p.stem for kind in ("*.flac", "*.npz") for p in source.glob(kind)})
    if not ids:
        raise FileNotFoundError(f"no clip (.flac with .npz) in {source}")
    of_clip = splits.shares(ids)
    for clip_id in each(ids):
        try:
            audio = read_audio(source / f"{clip_id}.flac")
            motion = _motion(source / f"{clip_id}.npz", groups, len(channels))
        except (ValueError, OSError) as problem:
            on_skip(clip_id, str(problem))
            continue
        yield RawClip(
            clip_id=clip_id,
            speaker_id="facegood",
            corpus="facegood",
            split=of_clip[clip_id],
            audio=audio,
            motion=motion,
        )


def _json(path, kind):
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error})") from error
    if not isinstance(value, kind) or not all(value):
        raise ValueError(f"{path} holds no {kind.__name__} of names")
    return value


def _groups(mapping, channels):
    """{ARKit name: columns}."""
    unknown = {c for group in mapping.values() for c in group} - {*channels}
    unknown |= {*mapping} - {*mo.ARKIT_52}
    unknown |= {name for name, group in mapping.items() if not group}
    if unknown:
        raise ValueError(f"{MAP} names {sorted(unknown)}, which nothing here knows")
    return {k: [channels.index(c) for c in group] for k, group in mapping.items()}


def _motion(path, groups, count):
    try:
        with np.load(path, allow_pickle=False) as raw:
            shapes, fps = raw["blendshapes"], float(raw["fps"])
    except Exception as error:  # a damaged zip may raise anything
        raise BadClip(f"{path.name} cannot be read: {error}") from error
    if shapes.ndim != 2 or shapes.shape[1] != count:
        raise BadClip(f"blendshapes are {shapes.shape}; expected [T, {count}]")
    scores = np.zeros((len(shapes), len(mo.ARKIT_52)), np.float32)
    for name, columns in groups.items():
        scores[:, mo.ARKIT_52.index(name)] = shapes[:, columns].max(1)
    return arkit.to_coefficients(coefficients.resample(scores, fps))
