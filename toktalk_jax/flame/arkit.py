"""ARKit-52 scores to the stand-in head's coefficients."""

import functools
import importlib.resources

import numpy as np

from toktalk_jax import motion as mo


def to_coefficients(scores):
    """ARKit scores to motion of the stand-in head, whose expressions are the same ones.

    The four jaw shapes become the jaw joint: open and sideways as the head's own fit of
    those shapes (`tools.build_stand_in_head`); jawForward has no joint and is dropped.

    Args:
      scores: [T, 52] in the order of `motion.ARKIT_52`, each in [0, 1].

    Returns:
      [T, 56] float32, the neck at rest.

    Raises:
      ValueError: another shape.
    """
    scores = np.asarray(scores, np.float32)
    if scores.ndim != 2 or scores.shape[1] != len(mo.ARKIT_52):
        raise ValueError(f"scores are {scores.shape}; expected [T, 52]")
    of = dict(zip(mo.ARKIT_52, scores.T, strict=True))
    motion = np.zeros((len(scores), mo.F), np.float32)
    for k, name in enumerate(mo.ARKIT_EXPRESSION):
        motion[:, k] = of[name]
    open_angle, side_angle = _jaw_angles()
    motion[:, mo.JAW.start] = open_angle * of["jawOpen"]
    motion[:, mo.JAW.start + 1] = side_angle * (of["jawLeft"] - of["jawRight"])
    return motion


@functools.cache
def _jaw_angles():
    place = importlib.resources.files("toktalk_jax.flame") / "data/stand_in_head.npz"
    with place.open("rb") as file, np.load(file) as head:
        return float(head["jaw_open_angle"]), float(head["jaw_side_angle"])
