"""One clip's scores: coefficients to vertices, then every metric, in one jit.

Clips are padded to whole blocks of frames, so clips of similar length share a compile,
and vertices are made a block at a time, so long clips fit in memory.
"""

import functools
import hashlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from toktalk_jax import motion as mo
from toktalk_jax.evaluation import head_motion, metrics, timing
from toktalk_jax.flame import model, regions
from toktalk_jax.flame.landmarks import LIPS, inner_lip_gap

PAD_FRAMES = 32
_DYNAMICS = ("fdd_1e5m", "fdd_signed", "fdd_xyzsum", "brow_fdd")
_POINTS = np.array([*metrics.OUTER_LIPS, *metrics.INNER_LIPS])


class _Surface(NamedTuple):
    lips: np.ndarray  # [L]
    upper: np.ndarray  # [U]
    brows: np.ndarray  # [W]
    corners: np.ndarray  # [4, 3] vertices of landmarks 51, 57, 62, 66
    weights: np.ndarray  # [4, 3]


def _surface(head):
    if head.landmark_faces is None:
        raise ValueError(
            f"head {head.name!r} has no landmarks for mod_mm; give a landmark file"
        )
    corners = np.asarray(head.faces)[np.asarray(head.landmark_faces)[_POINTS]]
    weights = np.asarray(head.landmark_weights, np.float32)[_POINTS]
    named = (regions.lips(head), regions.upper_face(head), regions.brows(head))
    return _Surface(*map(np.asarray, named), corners, weights)


def region_hashes(head):
    """{region: hash} of the vertices, and of the landmarks, that `score_clip` reads."""
    surface = _surface(head)
    named = {
        "all": np.arange(len(head.v_template)),
        "lips": surface.lips,
        "upper_face": surface.upper,
        "brows": surface.brows,
    }
    hashes = {name: regions.region_hash(indices) for name, indices in named.items()}
    points = (surface.corners.astype("<i4"), surface.weights.astype("<f4").round(4) + 0)
    digest = hashlib.sha256(b"".join(part.tobytes() for part in points))
    return hashes | {"landmarks": digest.hexdigest()[:12]}


def score_clip(
    head,
    prediction,
    truth,
    *,
    chunk_frames,
    mask=None,
    control=None,
    head_joint="neck",
    phonemes=(),
    loudness=None,
):
    """All scores of one clip, on the head's vertices without head pose and identity.

    Point scores are of the first sample; the energy score takes them all. Those of the
    head's own motion (head_*) are of the last three coefficients, no vertices.

    Args:
      head: `flame.assets.Head` with regions and landmarks.
      prediction: [T, 56] raw motion, or samples [k, T, 56].
      truth: [T, 56] raw motion.
      chunk_frames: frames per chunk of the stream, counted from frame 0; it also places
        the borders of a row that has none (a baseline, the truth).
      mask: optional [T] bool of valid frames.
      control: optional [T, 56], the same net solved over the whole clip.
      head_joint: the dataset's "neck" or "root".
      phonemes: (start s, end s, symbol), empty where unknown: for closure.
      loudness: [T', dB] per frame, T' at least T, or None: for silence_mm, head_beat.

    Returns:
      dict: "frames" scored; metric -> number, or for a pooled metric its list of sums;
      "skipped": metric -> reason, for what this clip cannot give.

    Raises:
      ValueError: shapes disagree, no frame is valid, or a valid frame is not finite.
    """
    motions, mask = _check(prediction, truth, control, mask, chunk_frames)
    sound, unheard = timing.read_sound(phonemes, loudness, mask)
    reasons = _undefined(mask, chunk_frames, control is not None, unheard)
    frames = len(mask)
    padding = -frames % PAD_FRAMES
    padded = [np.pad(m, ((0, 0), (0, padding), (0, 0))) for m in motions]
    numbers = _measure(
        head,
        _surface(head),
        tuple(padded),
        np.pad(mask, (0, padding)),
        metrics.chunk_borders(frames + padding, chunk_frames),
        timing.pad_sound(sound, padding),
        head_joint,
    )
    numbers = jax.device_get(numbers)
    scores = {k: _decimal(v) for k, v in numbers.items() if k not in reasons}
    broken = [k for k, v in scores.items() if not np.isfinite(v).all()]
    if broken:
        raise ValueError(f"{broken} overflow: the motion's values are out of all range")
    return {"frames": int(mask.sum()), **scores, "skipped": reasons}


TRACKED = ("tracked_lip_mm", "tracked_gap_r")


def score_tracked(rig, prediction, lips, mask=None):
    """Scores of one clip against the lips that the tracker saw, without a fit between.

    Args:
      rig: `flame.fit.prepare(head)`.
      prediction: [T, 56] raw motion, or samples [k, T, 56], of which the first counts.
      lips: [T', 40, 3] metres, `data.schema.RawClip.lips`; T' at least T; NaN in frames
        without a face, which are not scored.
      mask: optional [T] bool of valid frames, as of `score_clip`.

    Returns:
      dict: "tracked_lip_mm", and the sums of "tracked_gap_r".

    Raises:
      ValueError: fewer lips than frames, or no valid frame with a face.
    """
    motion = np.asarray(prediction, np.float32)
    motion = motion[0] if motion.ndim == 3 else motion
    frames = len(motion)
    if len(lips) < frames or lips.shape[1:] != (len(LIPS), 3):
        raise ValueError(
            f"tracked lips are {lips.shape}; expected [{frames}, {len(LIPS)}, 3]"
        )
    valid = np.ones(frames, bool) if mask is None else np.asarray(mask, bool)
    seen_at = np.isfinite(lips[:frames]).all((1, 2)) & valid
    if not seen_at.any():
        raise ValueError(f"the tracker saw no face in {valid.sum()} valid frames")
    padded = np.pad(motion, ((0, -frames % PAD_FRAMES), (0, 0)))
    ours = np.asarray(_landmarks(rig.head, rig.weights, padded))[:frames][seen_at]
    seen = np.zeros_like(ours)
    seen[:, LIPS] = lips[:frames][seen_at]
    error = np.linalg.norm((ours - seen)[:, LIPS], axis=-1)
    gaps = [1e3 * inner_lip_gap(points) for points in (ours, seen)]
    return {
        "tracked_lip_mm": float(1e3 * error.mean()),
        "tracked_gap_r": _decimal(
            metrics.correlation_sums(*gaps, np.ones(len(ours), bool))
        ),
    }


@jax.jit
def _landmarks(small, weights, motion):
    """The tracker's landmarks [T, 478, 3] on a head cut to them, head pose zeroed."""
    corners = model.vertices(small, motion, pose=False)[:, small.faces]
    return jnp.einsum("tlkc,lk->tlc", corners, weights, precision="highest")


def _decimal(value):
    """Counts, or floats of the shortest decimals of a float32: rows stay small."""
    if np.issubdtype(np.asarray(value).dtype, np.integer):
        return np.asarray(value).tolist()
    return np.asarray(value, np.float32).astype(str).astype(np.float64).tolist()


def _check(prediction, truth, control, mask, chunk_frames):
    """[prediction, truth, control] as [k, T, 56], zero where masked; and the mask."""
    if chunk_frames < 2 or chunk_frames % 2:
        raise ValueError(
            f"chunk_frames is {chunk_frames}; expected even and at least 2"
        )
    truth = np.asarray(truth, np.float32)
    frames = truth.shape[0] if truth.ndim == 2 else -1
    mask = np.ones(max(frames, 0), bool) if mask is None else np.asarray(mask, bool)
    if truth.shape != (frames, mo.F) or mask.shape != (frames,):
        raise ValueError(
            f"truth is {truth.shape}, its mask {mask.shape}; expected [T, {mo.F}], [T]"
        )
    if not mask.any():
        raise ValueError(f"none of the clip's {frames} frames is valid; skip the clip")
    motions = []
    named = {"prediction": prediction, "truth": truth, "control": control}
    for name, motion in named.items():
        if motion is None:
            continue
        motion = np.asarray(motion, np.float32)
        motion = motion[None] if motion.ndim == 2 else motion
        samples = motion.shape[0] if name == "prediction" else 1
        if motion.shape != (max(samples, 1), frames, mo.F):
            raise ValueError(
                f"{name} is {motion.shape}; expected {frames} frames of {mo.F}"
            )
        motion = np.where(mask[None, :, None], motion, np.float32(0))
        if not np.isfinite(motion).all():
            raise ValueError(f"{name} holds values that are not finite in valid frames")
        motions.append(motion)
    return motions, mask


def _undefined(mask, chunk_frames, controlled, unheard):
    """metric -> why this clip cannot give it."""
    reasons = {}
    needs_sound = {
        "closure": "closures",
        "silence_mm": "silent",
        "head_beat": "peaks",
        "head_beat_gain": "peaks",
    }
    for metric, part in needs_sound.items():
        if part in unheard:
            reasons[metric] = unheard[part]
    if mask.sum() < 2:
        for metric in (*_DYNAMICS, "std_ratio"):
            reasons[metric] = "one valid frame has no motion"
    steps = mask[1:] & mask[:-1]
    turns = steps[1:] & steps[:-1]
    if not steps.any():
        reasons["head_speed_w1"] = "no two valid frames in a row"
    if not turns.any():
        reasons["head_accel_w1"] = "no three valid frames in a row"
    if not (turns[1:] & turns[:-1]).any():
        for metric in ("head_beat", "head_beat_gain"):
            reasons[metric] = "no four valid frames in a row"
    inner = np.concatenate([[False], turns, [False]])[: len(mask)]
    borders = metrics.chunk_borders(len(mask) + 1, chunk_frames)
    border = inner & (borders[:-1] | borders[1:])
    excess = ["boundary_excess"] + ["boundary_excess_whole"] * controlled
    if not border.any():
        for metric in ("jitter", *excess):
            reasons[metric] = "no chunk border between valid frames"
    if not (inner & ~border).any():
        for metric in ("jitter_inside", *excess):
            reasons.setdefault(metric, "no frame away from the chunk borders")
    return reasons


def _barycentric(corners, weights):
    return jnp.einsum("mtlkc,lk->mtlc", corners, weights, precision="highest")


@functools.partial(jax.jit, static_argnames="head_joint")
def _measure(head, surface, motions, mask, borders, sound, head_joint):
    """metric -> number or sums; motions are prediction [k, T, 56], truth, control."""
    k = len(motions[0])
    stacked = jnp.concatenate(motions)
    blocks = stacked.reshape(len(stacked), -1, PAD_FRAMES, mo.F).swapaxes(0, 1)

    def read(block):  # a block at a time: all vertices of a long clip would not fit
        faces = model.vertices(head, block, None, head_joint, pose=False)
        points = _barycentric(faces[:, :, surface.corners], surface.weights)
        errors = (
            metrics.vertex_errors(faces[0], faces[k]).mean(-1),
            metrics.squared_errors(faces[0], faces[k]).mean(-1),
        )
        parts = (surface.lips, surface.upper, surface.brows)
        return *(faces[:, :, part] for part in parts), points, jnp.stack(errors)

    # [blocks, motions, frames, ...] to [motions, T, ...]
    *faces, points, errors = jax.tree.map(
        lambda x: x.swapaxes(0, 1).reshape(x.shape[1], -1, *x.shape[3:]),
        lax.map(read, blocks),
    )
    landmarks = jnp.zeros((*points.shape[:2], 68, 3)).at[:, :, _POINTS].set(points)
    gaps = [metrics.mouth_gap_mm(landmarks[i]) for i in (0, k)]
    mean_square = 1e6 * metrics.masked_mean(errors[1], mask)
    scores = {
        "mve_mm": 1e3 * metrics.masked_mean(errors[0], mask),
        "mse_mm2": mean_square,
        "rmse_mm": jnp.sqrt(mean_square),
        "mod_mm": metrics.mod_mm(landmarks[0], landmarks[k], mask),
        "mouth_gap_r": metrics.correlation_sums(*gaps, mask),
        "closure": timing.closure_sums(*gaps, sound.closures, sound.speech),
        "silence_mm": timing.silence_sums(gaps[0], sound.silent),
    }
    scores |= _lip_scores(faces[0], k, mask, borders)
    scores |= _upper_scores(head, surface, *faces[1:], k, mask)
    return scores | _head_scores(stacked[..., mo.NECK], k, mask, sound)


def _lip_scores(lips, k, mask, borders):
    """Of lips [motions, T, L, 3]: k samples, the truth, and maybe the control."""
    ours, truth = lips[0], lips[k]
    motion = metrics.acceleration_sums(ours, mask, borders)
    largest = metrics.lve_l2sq_sums(ours, truth, mask)
    scores = {
        "lve_mm": metrics.lve_mm(ours, truth, mask),
        "lve_l2sq": largest,
        "lve_rms_mm": largest,
        "energy_score": metrics.energy_score(lips[:k], truth, mask),
        "jitter": motion[0] / motion[1],
        "jitter_inside": motion[2] / motion[3],
        "boundary_excess": metrics.boundary_excess_sums(ours, truth, mask, borders),
        "std_ratio": metrics.std_ratio_sums(ours, truth, mask),
    }
    if len(lips) > k + 1:
        sums = metrics.boundary_excess_sums(ours, lips[k + 1], mask, borders)
        scores["boundary_excess_whole"] = sums
    return scores


def _upper_scores(head, surface, upper, brows, k, mask):
    """Dynamics of upper face and brows [motions, T, U, 3]."""
    rest, rest_brows = (
        head.v_template[part] for part in (surface.upper, surface.brows)
    )
    pair = (upper[0], upper[k], rest, mask)
    return {
        "fdd_1e5m": metrics.fdd_1e5m(*pair),
        "fdd_signed": metrics.fdd_signed(*pair),
        "fdd_xyzsum": metrics.fdd_xyzsum(*pair),
        "brow_fdd": metrics.fdd_1e5m(brows[0], brows[k], rest_brows, mask),
    }


def _head_scores(neck, k, mask, sound):
    """Of the head's turning, axis-angle [motions, T, 3]."""
    beats = head_motion.beat_sums(neck[0], mask, sound.peaks)
    return {
        "head_speed_w1": head_motion.speed_sums(neck[0], neck[k], mask),
        "head_accel_w1": head_motion.acceleration_sums(neck[0], neck[k], mask),
        "head_beat": beats[:2],
        "head_beat_gain": beats,
    }
