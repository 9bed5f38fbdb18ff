"""Write and read `watch.html`, a self-contained page that shows motion on a head.

It needs no network and no server: script, style, head, motion and sound are in it, and
its content security policy refuses everything else.
"""

import base64
import hashlib
import html
import importlib.resources
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping

import jax
import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.flame import model, regions
from toktalk_jax.page import comparison, pack, shade

GROUPS = ("skin", "eyes", "lashes", "teeth", "tongue")
MOST_TRACKS = len(comparison.COLOURS)
# Steps of the fixed-point arrays: 1 um of displacement per unit of coefficient.
STEPS = {"expression": 1e-6, "posedirs": 1e-6, "weights": 1 / 32767, "audio": 1 / 32767}
STEPS |= {f"vertex_mm_{n}": 1e-3 for n in range(MOST_TRACKS)}
_OPEN_JAW = 0.3  # rad: the pose whose hollows are shaded; teeth must not stay black
_FIRST_MARK = 17  # the jaw contour (iBUG 0 to 16) is not drawn
_POLICY = (
    "default-src 'none'; script-src '{script}'; style-src '{style}'; img-src data: "
    "blob:; media-src blob:; connect-src 'none'; base-uri 'none'; form-action 'none'"
)


def write_page(
    path,
    head,
    tracks,
    audio,
    sample_rate=mo.SAMPLE_RATE,
    title="TokTalk",
    info=None,
    head_joint="neck",
    shape=None,
    compared=None,
):
    """Write one html file that plays motion on the head with its sound.

    Args:
      path: file to write; it appears only when complete.
      head: `flame.assets.Head`.
      tracks: one to four (label, motion [T, 56]) at 25 fps, shown side by side; frame k
        is the pose at k / 25 s, and the page blends linearly between frames.
      audio: [L] float in [-1, 1]; louder samples are clipped.
      sample_rate: of the audio, Hz.
      title: heading and window title.
      info: mapping shown beside the head: values as a list, a mapping of values as a
        section, a mapping of mappings as a table. `chunk_frames` (int) also marks the
        chunk borders on the curves.
      head_joint: joint of the last three coefficients, as in `flame.model.vertices`.
      shape: [n] identity coefficients, or None.
      compared: `comparison.Comparison` of the tracks, or None. With it every head holds
        frame floor(25 t), and the page shows its curves and errors.

    Returns:
      The path written.

    Raises:
      ValueError: tracks, audio or info cannot be shown; the message says why.
    """
    tracks = _checked_tracks(tracks)
    audio = _checked_audio(audio, sample_rate)
    info = _plain(dict(info or {}))
    chunk_frames = _chunk_frames(info)
    if head_joint not in model.HEAD_JOINTS:
        raise ValueError(f"head_joint is {head_joint!r}; expected 'neck' or 'root'")
    arrays = _head_arrays(head, shape)
    for index, (_, motion) in enumerate(tracks):
        arrays[f"motion_{index}"] = motion
    arrays["audio"] = audio
    compare, chunks = None, (chunk_frames,)
    if compared is not None:
        compare, more = comparison.pack(compared)
        arrays, chunks = arrays | more, compared.chunk_frames
    take = {
        "fps": mo.FPS,
        "sample_rate": int(sample_rate),
        "tracks": [label for label, _ in tracks],
        "colours": comparison.COLOURS,
        "compare": compare,
        "head_name": head.name,
        "head_joint": head_joint,
        "groups": GROUPS,
        "chunk_frames": chunk_frames,
        "borders": comparison.borders(chunks),
        "info": info,
        "block": pack.pack(arrays, STEPS),
    }
    return _write(pathlib.Path(path), _fill(str(title), take))


def pack_head(head, head_joint):
    """A head without motion or sound: what `write_page` embeds of it, for a live page.

    Args:
      head: `flame.assets.Head`.
      head_joint: joint of the last three coefficients, as in `flame.model.vertices`.
    """
    return {
        "head_name": head.name,
        "head_joint": head_joint,
        "groups": GROUPS,
        "block": pack.pack(_head_arrays(head, None), STEPS),
    }


def read_page(path):
    """What a page holds: its header, with the decoded arrays under "arrays".

    Raises:
      ValueError: the file is no such page.
    """
    text = pathlib.Path(path).read_text(encoding="utf-8")
    found = re.search(r'<script id="take" type="application/json">(.*?)</script>', text)
    if found is None:
        raise ValueError(f"{path} holds no take: it is not a page of write_page")
    take = json.loads(found.group(1))
    take["arrays"] = pack.unpack(take.pop("block"))
    return take


def _checked_tracks(tracks):
    tracks = list(tracks)
    if not 1 <= len(tracks) <= MOST_TRACKS:
        raise ValueError(
            f"{len(tracks)} tracks came; a page shows one to {MOST_TRACKS}"
        )
    checked = []
    for label, motion in tracks:
        motion = np.asarray(motion, np.float32)
        if motion.ndim != 2 or motion.shape[1] != mo.F or not len(motion):
            raise ValueError(
                f"track {label!r} has shape {motion.shape}; expected [T, {mo.F}] with "
                "at least one frame"
            )
        bad = int((~np.isfinite(motion)).any(1).sum())
        if bad:
            raise ValueError(
                f"track {label!r} holds NaN or Inf in {bad} of {len(motion)} frames"
            )
        checked.append((str(label), motion))
    return checked


def _checked_audio(audio, sample_rate):
    audio = np.asarray(audio)
    if audio.ndim != 1 or not audio.size:
        raise ValueError(f"audio has shape {audio.shape}; expected [L] mono, L > 0")
    if audio.dtype.kind != "f":
        raise ValueError(f"audio is {audio.dtype}; expected float in [-1, 1]")
    if not np.isfinite(audio).all():
        count = int((~np.isfinite(audio)).sum())
        raise ValueError(f"audio holds {count} NaN or Inf samples")
    # Browsers refuse sounds outside this range of rates (Web Audio, section 1.3).
    if not 8_000 <= sample_rate <= 96_000:
        raise ValueError(f"sample_rate is {sample_rate}; expected 8000 to 96000 Hz")
    return np.clip(audio, -1, 1).astype(np.float32)


def _plain(value):
    """Info as JSON holds it: numbers stay numbers, NaN and everything else is text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return str(value)


def _chunk_frames(info):
    frames = info.pop("chunk_frames", None)
    if frames is not None and (not isinstance(frames, int) or frames < 1):
        raise ValueError(f"info's chunk_frames is {frames!r}; expected a count >= 1")
    return frames


def _head_arrays(head, shape):
    """All that the page's own skinning, shading and painting read."""
    identity = None if shape is None else np.asarray(shape, np.float32)
    rest = np.asarray(head.v_template, np.float32)
    if identity is not None:
        known = min(len(identity), head.shape_dirs.shape[-1])
        rest = rest + np.asarray(head.shape_dirs)[..., :known] @ identity[:known]
    faces = np.asarray(head.faces, np.int64)
    expression = np.moveaxis(np.asarray(head.expression_dirs, np.float32), 2, 0)
    regressor = np.asarray(head.joint_regressor, np.float64)
    groups = _vertex_groups(head)
    opened = np.zeros(mo.F, np.float32)
    opened[mo.JAW.start] = _OPEN_JAW
    opened = np.asarray(jax.jit(model.vertices)(head, opened, identity))
    closed = shade.openness(rest, faces)
    return {
        "template": rest,
        "expression": expression.reshape(len(expression), -1),
        "posedirs": np.asarray(head.posedirs, np.float32),
        "weights": np.asarray(head.weights, np.float32),
        "joint_rest": (regressor @ rest).astype(np.float32),
        "joint_dirs": (regressor @ expression.astype(np.float64)).astype(np.float32),
        "faces": faces,
        "face_groups": groups[faces].max(1).astype(np.uint8),
        "open_rest": _bytes(closed),
        "open": _bytes(np.maximum(closed, shade.openness(opened, faces))),
        "eye_places": _eye_places(rest, groups == GROUPS.index("eyes")),
        **_marks(head, rest, faces),
    }


def _bytes(share):
    return np.round(255 * share).astype(np.uint8)


def _vertex_groups(head):
    """[V] index into GROUPS; eyeballs by their joints where the head names no eyes."""
    groups = np.zeros(len(head.v_template), np.int64)
    named = dict(head.groups)
    if not len(named.get("eyes", ())):
        named["eyes"] = np.flatnonzero(np.asarray(head.weights)[:, 3:].max(1) > 0.99)
    for index, name in enumerate(GROUPS):
        if index and len(named.get(name, ())):
            groups[np.asarray(named[name], np.int64)] = index
    return groups


def _eye_places(rest, is_eye):
    """Centres and radii [2, 4] of spheres fitted to both eyeballs, or [0, 4]."""
    places = []
    middle = rest[:, 0].mean()
    for side in (rest[:, 0] > middle, rest[:, 0] <= middle):
        points = rest[is_eye & side].astype(np.float64)
        if len(points) >= 4:
            # |p|^2 = 2 p.c + (r^2 - |c|^2): linear in the centre c.
            system = np.concatenate([2 * points, np.ones((len(points), 1))], 1)
            found = np.linalg.lstsq(system, (points**2).sum(1), rcond=None)[0]
            radius = np.sqrt(found[3] + found[:3] @ found[:3])
            places.append((*found[:3], radius))
    return np.asarray(places, np.float32).reshape(-1, 4)


def _marks(head, rest, faces):
    """Corners, weights and places of the inner 51 landmarks, if the head has them."""
    if head.landmark_faces is None:
        return {}
    places = np.asarray(regions.landmarks_68(head, rest), np.float32)
    corners = faces[np.asarray(head.landmark_faces)]
    return {
        "mark_vertices": corners[_FIRST_MARK:],
        "mark_weights": np.asarray(head.landmark_weights, np.float32)[_FIRST_MARK:],
        "mark_places": places[_FIRST_MARK:],
    }


def _fill(title, take):
    bundle = importlib.resources.files("toktalk_jax.page") / "bundle"
    parts = {
        name: (bundle / file).read_text(encoding="utf-8")
        for name, file in (("script", "watch.js"), ("style", "watch.css"))
    }
    sources = {name: _source_hash(text) for name, text in parts.items()}
    parts["csp"] = _POLICY.format(**sources)
    parts["title"] = html.escape(title)
    # "<" could end the script element early; JSON may spell it as an escape.
    data = json.dumps(take, ensure_ascii=True, allow_nan=False)
    parts["data"] = data.replace("<", "\\u003c")
    template = (bundle / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found.group(1)], template)


def _source_hash(text):
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
