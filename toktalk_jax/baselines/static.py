"""The static mean face: what a model must beat before it has heard anything."""

import numpy as np

from toktalk_jax import motion as mo


def fit(motions):
    """Mean coefficient [F] over all train frames.

    Args:
      motions: iterable of [T, F] raw motion.

    Raises:
      ValueError: no frame came, or a clip is not [T, 56].
    """
    total, frames = np.zeros(mo.F), 0
    for motion in motions:
        motion = np.asarray(motion)
        if motion.ndim != 2 or motion.shape[1] != mo.F:
            raise ValueError(f"motion is {motion.shape}; expected [T, {mo.F}]")
        total += motion.sum(0, dtype=np.float64)
        frames += len(motion)
    if not frames:
        raise ValueError("the mean face needs train motion; no frame came")
    return (total / frames).astype(np.float32)


def predict(mean, frames):
    """The mean face [F], held for [frames, F]."""
    return np.tile(mean, (frames, 1))
