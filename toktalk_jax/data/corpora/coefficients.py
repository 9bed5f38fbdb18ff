"""FLAME coefficients from a tracker's npz file, brought to 25 fps."""

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.data.schema import BadClip


def read_npz(path):
    """Motion and identity of one tracked clip.

    Args:
      path: npz with `motion` [T, 56], or `exp` [T, 50 or more] and `pose` [T, 6]
        (head, jaw; axis-angle); `shape` [n] or [T, n] and `fps` (25 if absent) too.

    Returns:
      (motion [T', 56] f32 at 25 fps, shape [100] f32).

    Raises:
      BadClip: no such file, not an npz, or arrays that are missing or misshapen.
    """
    if not path.is_file():
        raise BadClip(f"no coefficients at {path.name}")
    try:
        with np.load(path, allow_pickle=False) as raw:
            arrays = {k: raw[k] for k in raw.files}
        fps = float(np.asarray(arrays.get("fps", mo.FPS)).item())
    except Exception as error:  # a damaged zip may raise anything
        raise BadClip(f"{path.name} is not a whole npz file ({error})") from error
    return resample(to_motion(arrays), fps), identity(arrays.get("shape"))


def to_motion(arrays):
    """[T, 56] from `motion`, or from DiffPoseTalk's `exp` and `pose` (head, jaw).

    Raises:
      BadClip: neither is there, or their shapes do not fit.
    """
    if "motion" in arrays:
        motion = np.asarray(arrays["motion"], np.float32)
        if motion.ndim != 2 or motion.shape[1] != mo.F:
            raise BadClip(f"motion is {motion.shape}, expected [T, {mo.F}]")
        return motion
    if not {"exp", "pose"} <= {*arrays}:
        raise BadClip(
            f"it holds {sorted(arrays)}; expected motion, or exp and pose (head, jaw)"
        )
    exp = np.asarray(arrays["exp"], np.float32)
    pose = np.asarray(arrays["pose"], np.float32)
    if exp.ndim != 2 or exp.shape[1] < 50 or pose.shape != (len(exp), 6):
        raise BadClip(
            f"exp is {exp.shape} and pose {pose.shape}; expected [T, 50] and [T, 6]"
        )
    # Theirs is head, then jaw; ours jaw, then neck.
    return np.concatenate([exp[:, :50], pose[:, 3:], pose[:, :3]], 1)


def identity(shape):
    """[100] f32 from [n], [T, n] (its mean) or None (zeros)."""
    out = np.zeros(100, np.float32)
    if shape is not None:
        shape = np.asarray(shape, np.float32)
        if shape.ndim not in (1, 2) or not len(shape):
            raise BadClip(f"shape is {shape.shape}; expected [n] or [T, n]")
        shape = shape.mean(0, np.float64) if shape.ndim == 2 else shape
        if not np.isfinite(shape).all():
            raise BadClip("shape holds NaN or Inf values")
        out[: len(shape)] = shape[:100]
    return out


def resample(motion, fps):
    """[T, F] at `fps` to 25 fps, linearly, frame centres kept.

    Raises:
      BadClip: a rate that is no rate.
    """
    if not 1 <= fps <= 1000:
        raise BadClip(f"fps is {fps}; expected frames per second")
    if fps == mo.FPS or not len(motion):
        return np.asarray(motion, np.float32)
    count = round(len(motion) * mo.FPS / fps)
    wanted = (np.arange(count) + 0.5) / mo.FPS
    given = (np.arange(len(motion)) + 0.5) / fps
    columns = [np.interp(wanted, given, column) for column in np.asarray(motion).T]
    return np.stack(columns, 1).astype(np.float32)
