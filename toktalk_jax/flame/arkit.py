"""ARKit-52 weights to motion of a head and back, by box-constrained least squares.

FLAME's expressions are principal components, ARKit's shapes have names, and no table
between them is public with FLAME. Here both say where they take a head's surface, and
the weights (or the coefficients) are those that take it to the same place. A head's
ARKit shapes are:

  * of the stand-in its own: its expressions are ARKit's shapes, and its jaw joint was
    fitted to jawOpen, jawLeft and jawRight;
  * of another head the stand-in's, carried over at MediaPipe's 478 landmarks as the
    tracker's points are (`landmarks.carry`). The three jaw shapes are the head's own
    jaw, turned as far as comes nearest to the carried ones. What no landmark shows,
    the tongue, stays 0;
  * or those of the user's file, from elsewhere (`arkit_shapes.load_basis`).

The turn of the jaw counts as linear in its angle on both sides, so it leaks into no
other shape. jawForward is a slide that no joint shows: 0 unless a basis has it.

Frames are solved alone. The problem is strictly convex, so the weights follow the
motion without jumps, and a stream needs no state: any split gives the clip's weights.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.flame import fit
from toktalk_jax.flame.arkit_shapes import rows, stand_in_jaw

RIDGE = 0.03  # mm^2 against a whole shape, and against a unit of expression
LEFT, RIGHT = (mo.ARKIT_52.index(name) for name in ("jawLeft", "jawRight"))
STEPS, RELAXATION = 200, 1.6  # of ADMM (Boyd et al. 2011, section 3.4.3)
BLOCK = 10  # frames that are solved at once: a chunk


class Box(NamedTuple):
    """A least-squares problem in a box, factored; unknowns scaled to unit curvature.

    Attributes:
      inverse: [n, n] of the scaled Hessian plus `rho`.
      cross: [k, n] from what is given to the scaled gradient.
      low, high: [n] bounds of the scaled unknowns.
      scale: [n] scaled unknown per unknown.
      rho: ADMM's penalty.
    """

    inverse: jnp.ndarray
    cross: jnp.ndarray
    low: jnp.ndarray
    high: jnp.ndarray
    scale: jnp.ndarray
    rho: jnp.ndarray


class Rig(NamedTuple):
    """A head made ready for both directions, by `prepare`.

    Attributes:
      to_weights: from expression and jaw [53] to weights [52].
      to_motion: from weights [52] to expression and jaw [53].
    """

    to_weights: Box
    to_motion: Box


def prepare(head, landmark_map=None, basis=None):
    """`Rig` of a head: seconds of work, once.

    Args:
      head: `assets.Head`.
      landmark_map: `landmarks.LandmarkMap`; None is the one shipped for the stand-in.
      basis: [52, V, 3] metres, of `arkit_shapes.load_basis`; None as said above.

    Raises:
      ValueError: the shipped map is not of this head, or a basis of another size.
    """
    shapes, motions = rows(head, landmark_map, basis)
    signed, floor, ceiling = shapes.copy(), np.zeros(52), np.ones(52)
    if np.allclose(shapes[:, LEFT], -shapes[:, RIGHT]):
        # One unknown with a sign: of two that cancel, only the ridge would fix the sum.
        signed[:, RIGHT], floor[LEFT], ceiling[RIGHT] = 0, -1, 0
    low, high = (
        np.array([*[bound] * 50, *jaw])
        for bound, jaw in zip(
            fit.bounds_of(head), (fit.JAW_LOW, fit.JAW_HIGH), strict=True
        )
    )
    return Rig(
        factor(signed, motions, floor, ceiling), factor(motions, shapes, low, high)
    )


def factor(wanted, given, low, high):
    """`Box` of: x in [low, high] that minimises |wanted x - given y|^2 + RIDGE |x|^2.

    Args:
      wanted: [n, p] columns of the unknowns; given: [n, k] those of y.
    """
    hessian = wanted.T @ wanted + RIDGE * np.eye(wanted.shape[1])
    scale = np.sqrt(np.diag(hessian))
    hessian /= scale * scale[:, None]
    curvature = np.linalg.eigvalsh(hessian)
    rho = np.sqrt(curvature[0] * curvature[-1])
    inverse = np.linalg.inv(hessian + rho * np.eye(len(scale)))
    cross = (wanted.T @ given / scale[:, None]).T
    parts = inverse, cross, low * scale, high * scale, scale, rho
    return Box(*(jnp.asarray(part, jnp.float32) for part in parts))


def solve(box, given):
    """The minimisers [T, p] of a `Box` for given [T, k]; pure, jit-able."""
    dot = functools.partial(jnp.matmul, precision="highest")
    start = dot(dot(given, box.cross), box.inverse)
    step, low, high = box.rho * box.inverse, box.low[None], box.high[None]

    def body(_, state):
        x, dual = state
        free = RELAXATION * (start + dot(x - dual, step)) + (1 - RELAXATION) * x
        x = jnp.clip(free + dual, low, high)
        return x, dual + free - x

    zero = jnp.zeros_like(start)
    first = jnp.clip(zero, low, high)
    return jax.lax.fori_loop(0, STEPS, body, (first, zero))[0] / box.scale[None]


def weights_of(rig, motion):
    """`to_arkit` for use under jit: pure, unchecked."""
    found = solve(rig.to_weights, motion[:, : mo.JAW.stop])
    found = found.at[:, RIGHT].add(-jnp.minimum(found[:, LEFT], 0))
    return jnp.clip(found, 0, 1)  # the scaling may round past the box


_weights_of = jax.jit(weights_of)
_motion_of = jax.jit(lambda rig, weights: solve(rig.to_motion, weights))


def _in_blocks(function, rig, given):
    """A function of frames with one compilation for every length."""
    padded = np.pad(given, ((0, -len(given) % BLOCK), (0, 0)))
    blocks = [padded[i : i + BLOCK] for i in range(0, len(padded), BLOCK)]
    return np.concatenate([function(rig, block) for block in blocks])[: len(given)]


def _check(values, width, name):
    values = np.asarray(values, np.float32)
    if values.ndim != 2 or values.shape[1] != width or not len(values):
        raise ValueError(f"{name} are {values.shape}; expected [T, {width}], T > 0")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} hold NaN or Inf values")
    return values


def to_arkit(rig, motion):
    """ARKit weights of motion; the neck has none (`export.live_link` writes it).

    Args:
      rig: of the head that the motion moves.
      motion: [T, 56] raw coefficients.

    Returns:
      [T, 52] float32 in [0, 1], in the order of `motion.ARKIT_52`.

    Raises:
      ValueError: another shape, no frame, or values that are not finite.
    """
    motion = _check(motion, mo.F, "motion coefficients")
    return _in_blocks(_weights_of, rig, motion)


def from_arkit(rig, weights, neck=None):
    """Motion of the head that ARKit weights describe.

    Args:
      weights: [T, 52] in the order of `motion.ARKIT_52`.
      neck: [T, 3] axis-angle, radians; None leaves it at rest.

    Returns:
      [T, 56] float32.

    Raises:
      ValueError: as `to_arkit`.
    """
    weights = _check(weights, len(mo.ARKIT_52), "ARKit weights")
    motion = np.zeros((len(weights), mo.F), np.float32)
    motion[:, : mo.JAW.stop] = _in_blocks(_motion_of, rig, weights)
    if neck is not None:
        motion[:, mo.NECK] = _check(neck, 3, "neck angles")
    return motion


def to_coefficients(scores):
    """ARKit scores to motion of the stand-in head, whose expressions are the same ones.

    A copy where `from_arkit` fits: the four jaw shapes become the jaw joint, open and
    sideways as the head's own fit of those shapes (`tools.build_stand_in_head`).

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
    open_angle, side_angle = stand_in_jaw()
    motion[:, mo.JAW.start] = open_angle * of["jawOpen"]
    motion[:, mo.JAW.start + 1] = side_angle * (of["jawLeft"] - of["jawRight"])
    return motion
