"""Tracked landmarks to motion: regularised, box-constrained least squares.

Face trackers return points, not coefficients, and their blendshape scores move too few
mouth shapes. So the points are tied to the head's surface by a fixed map (`landmarks`),
and expression and jaw are solved frame by frame so that the head's points move as the
tracked ones do. The tracked face and the head differ in shape: displacements from the
talker's neutral are fitted, scaled to the head, never positions.
"""

import hashlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.signal import savgol_filter

from toktalk_jax import motion as mo
from toktalk_jax.flame import model
from toktalk_jax.flame.assets import Head
from toktalk_jax.flame.landmarks import (
    BROWS,
    INNER_LOWER,
    INNER_UPPER,
    IRISES,
    LANDMARKS,
    LIDS,
    LIPS,
    NOSE_BASE,
    carry,
    load_map,
    reduce_head,
    surface_points,
)

RULES = "2"  # raise it with every change that moves a fit: caches hang on it
FITTED = 53  # expression and jaw; the neck comes from the tracker's pose
DEPTH_WEIGHT = 0.3  # a single camera sees depth badly
GAP_WEIGHT = 1.0  # how far the lips part, against where they are
STILL_REACH = 0.055  # metres from the middle: the tracker guesses the face's sides
SWEEPS, POSE_SWEEPS = 8, (1, 2, 3, 4)
BLOCK = 500  # frames that are swept at once
JAW_RIDGE = 10.0  # a radian of jaw against a whole shape
# Radians: opening, turn to the side, roll.
JAW_LOW, JAW_HIGH = (-0.05, -0.12, -0.05), (0.6, 0.12, 0.05)


class Rig(NamedTuple):
    """A head made ready for fitting, by `prepare`.

    Attributes:
      head: the cut of `landmarks.reduce_head`; faces [478, 3] are the landmarks' own.
      weights: [478, 3] barycentric.
      rest: [478, 3] the landmarks at rest, metres.
    """

    head: Head
    weights: jnp.ndarray
    rest: np.ndarray


class Fit(NamedTuple):
    """Result of `fit_landmarks`; lengths in metres on the head.

    Attributes:
      motion: [T, 56] float32, as fitted, unfiltered.
      target: [T, 478, 3] the tracked points carried to the head, without leftover pose.
      fitted: [T, 478, 3] the head's own points under `motion`, neck still.
    """

    motion: np.ndarray
    target: np.ndarray
    fitted: np.ndarray

    def residual_mm(self, landmarks=LIPS, dynamic=False):
        """Mean distance between target and fitted points, millimetres.

        Args:
          dynamic: True removes the mean over the frames first.
        """
        error = (self.fitted - self.target)[:, list(landmarks)]
        if dynamic:
            error = error - error.mean(0, keepdims=True)
        return float(1e3 * np.linalg.norm(error, axis=-1).mean())


def default_weights():
    """Weight of each landmark [478]: lips lead, then lids and brows, then skin."""
    weights = np.full(LANDMARKS, 0.3, np.float32)
    for group, value in ((LIDS, 1.0), (BROWS, 1.0), (IRISES, 1.0), (LIPS, 3.0)):
        weights[list(group)] = value
    weights[[*INNER_UPPER, *INNER_LOWER]] = 6.0
    return weights


def leftover_pose(error, rest):
    """Rigid motion and scale that the tracker's pose left in, as displacements.

    A similarity per frame is fitted to what the expressions could not explain between
    nose base and forehead, so that it can take nothing from the lips. Depth counts in
    full here: only with it is a nod told from a stretch.

    Args:
      error: [T, 478, 3] tracked minus fitted points.
      rest: [478, 3] the head's points at rest.

    Returns:
      [T, 478, 3] displacements of all landmarks.
    """
    still = still_landmarks(rest)
    arm = rest - rest[still].mean(0)
    turns = [np.cross(axis, arm) for axis in np.eye(3)]
    shifts = [np.broadcast_to(axis, arm.shape) * STILL_REACH for axis in np.eye(3)]
    basis = np.stack([*turns, *shifts, arm], -1)  # [478, 3, 7], all of one size
    found, *_ = np.linalg.lstsq(
        basis[still].reshape(-1, 7),
        error[:, still].reshape(len(error), -1).T,
        rcond=None,
    )
    return np.einsum("lcq,qt->tlc", basis, found).astype(np.float32)


def still_landmarks(rest):
    """[478] bool: from the nose's base up, without lids and irises; rest in metres."""
    still = (rest[:, 1] > rest[NOSE_BASE, 1]) & (np.abs(rest[:, 0]) < STILL_REACH)
    still[[*LIDS, *IRISES]] = False
    return still


def bounds_of(head):
    """Lowest and highest value of an expression: ARKit shapes, or FLAME's z-scores."""
    return (0.0, 1.0) if head.name == "stand_in" else (-3.0, 3.0)


def prepare(head, landmark_map=None):
    """`Rig` of a head; None is the shipped map (errors as `landmarks.load_map`)."""
    landmark_map = load_map(head) if landmark_map is None else landmark_map
    small, on_small = reduce_head(head, landmark_map)
    rest = np.asarray(surface_points(small, on_small, small.v_template))
    return Rig(small, jnp.asarray(on_small.weights), rest)


def fit_landmarks(
    head,
    landmarks,
    neutral,
    *,
    neck=None,
    scale=None,
    ridge=0.5,
    steady=0.5,
    expression_bounds=None,
):
    """Expression and jaw whose landmarks move as the tracked ones.

    Minimises, over each frame's expression and jaw within their bounds, the weighted
    squared distance (mm) of the head's points to the carried ones, depth counting 0.3,
    plus `ridge` (mm^2) times each squared coefficient and `steady` times that for each
    squared difference from the neighbouring frames. Gauss-Newton with projected Newton
    steps; after the first few the pose that the tracker left in is taken out.

    Args:
      head: `assets.Head`, or its `Rig` from `prepare` where many clips follow.
      landmarks: [T, 478, 3] tracked, with the head's pose taken out.
      neutral: [478, 3] the talker at rest with closed lips.
      neck: [T, 3] axis-angle of the head's turn, copied into the motion; None is zeros.
      scale: metres on the head per landmark unit; None fits face to face.
      expression_bounds: lower and upper end of every expression coefficient; None is
        `bounds_of` the head.

    Returns:
      `Fit`.

    Raises:
      ValueError: wrong shapes, or values that are not finite.
    """
    landmarks, neutral = np.asarray(landmarks, np.float32), np.asarray(neutral)
    _check(landmarks, neutral, neck)
    rig = head if isinstance(head, Rig) else prepare(head)
    target = carry(landmarks, neutral, rig.rest, scale).astype(np.float32)
    unit = 25 if len(target) <= BLOCK else BLOCK  # few lengths, few compilations
    padded = -(-len(target) // unit) * unit
    filled = np.pad(target, ((0, padded - len(target)), (0, 0), (0, 0)), mode="edge")
    low, high = _bounds(rig.head, expression_bounds or bounds_of(rig.head))
    x = jnp.broadcast_to(jnp.clip(0.0, low, high)[None], (padded, FITTED))
    fixed = (jnp.asarray(default_weights()), low, high, ridge, steady)
    for k in range(SWEEPS):
        x, fitted = _sweep_blocks(rig, filled, x, fixed)
        if k in POSE_SWEEPS:
            filled = filled - leftover_pose(filled - np.asarray(fitted), rig.rest)
    target = filled[: len(target)]
    motion = np.zeros((len(target), mo.F), np.float32)
    motion[:, :FITTED] = np.asarray(x)[: len(target)]
    if neck is not None:
        motion[:, mo.NECK] = neck
    return Fit(motion, target, np.asarray(fitted)[: len(target)])


def _check(landmarks, neutral, neck):
    if landmarks.ndim != 3 or landmarks.shape[1:] != (LANDMARKS, 3):
        raise ValueError(f"landmarks are {landmarks.shape}; expected [T, 478, 3]")
    if neutral.shape != (LANDMARKS, 3):
        raise ValueError(f"neutral is {neutral.shape}; expected [478, 3]")
    if neck is not None and np.shape(neck) != (len(landmarks), 3):
        raise ValueError(
            f"neck is {np.shape(neck)}; expected [{len(landmarks)}, 3] axis-angle"
        )
    for name, value in (("landmarks", landmarks), ("neutral", neutral)):
        bad = int((~np.isfinite(value)).sum())
        if bad:
            raise ValueError(f"{name} hold {bad} values that are not finite")


def _bounds(small, expression_bounds):
    """Lower and upper bounds [53]; a shape that moves no landmark is held at zero."""
    moves = np.abs(np.asarray(small.expression_dirs)).max((0, 1)) > 1e-7
    low = np.concatenate([np.where(moves, expression_bounds[0], 0.0), JAW_LOW])
    high = np.concatenate([np.where(moves, expression_bounds[1], 0.0), JAW_HIGH])
    return jnp.asarray(low, jnp.float32), jnp.asarray(high, jnp.float32)


def _sweep_blocks(rig, target, x, fixed):
    """`_sweep` a block at a time: an hour's Jacobians would not fit in memory."""
    ahead, behind = jnp.concatenate([x[1:], x[-1:]]), jnp.concatenate([x[:1], x[:-1]])
    neighbours, out = (ahead + behind) / 2, []
    for start in range(0, len(target), BLOCK):
        part = slice(start, start + BLOCK)
        own = target[part], x[part], neighbours[part]
        out.append(_sweep(rig.head, rig.weights, *own, *fixed))
    if len(out) == 1:
        return out[0]
    x, fitted = zip(*out, strict=True)
    return jnp.concatenate(x), np.concatenate(fitted)


@jax.jit
def _sweep(small, bary, target, x, neighbours, weights, low, high, ridge, steady):
    """A Gauss-Newton step of every frame; neighbours are the last values' mean.

    Returns:
      (x [T, 53], points [T, 478, 3]).
    """
    prior = jnp.where(high > low, ridge, 1.0).at[50:].set(JAW_RIDGE * ridge)
    axes = 1e3 * jnp.array([1.0, 1.0, DEPTH_WEIGHT])[:, None]
    # A shape's points turn with the jaw by its skinning share (exact but for the spread
    # of the weights over one triangle): rows of the part that turns, and of the rest.
    basis = _blend(small, bary, small.expression_dirs)
    share = _blend(small, bary, small.weights)[:, model.JAW, None, None]
    turning = weighted_rows(share * basis, weights)
    still = weighted_rows((1 - share) * basis, weights)

    def points(x):
        motion = jnp.concatenate([x, jnp.zeros(3)])
        return _blend(small, bary, model.vertices(small, motion, pose=False))

    def frame(x, goal, neighbours):
        turn = model.rodrigues(x[50:])
        shapes = still + (turn @ turning.reshape(3, -1)).reshape(still.shape)
        by_jaw = jax.jacfwd(lambda jaw: points(jnp.concatenate([x[:50], jaw])))(x[50:])
        jacobian = jnp.concatenate([shapes, weighted_rows(by_jaw, weights)], axis=-1)
        jacobian = (axes[..., None] * jacobian).reshape(-1, FITTED)
        error = (axes * weighted_rows(points(x) - goal, weights)).ravel()
        hessian = jacobian.T @ jacobian + jnp.diag(prior * (1 + steady))
        gradient = jacobian.T @ error + prior * x + steady * prior * (x - neighbours)
        return _box_newton(x, hessian, gradient, low, high)

    x = jax.vmap(frame)(x, target, neighbours)
    return x, jax.vmap(points)(x)


def weighted_rows(moved, weights):
    """Rows of the least squares [3, 478 + 9, ...] of displacements [478, 3, ...].

    Each landmark by the root of its weight, then how far the inner lips part.
    """
    upper, lower = (jnp.array(ring[1:-1]) for ring in (INNER_UPPER, INNER_LOWER))
    root = jnp.sqrt(weights).reshape(-1, *(1,) * (moved.ndim - 1))
    apart = GAP_WEIGHT * (moved[upper] - moved[lower]) * root[upper]
    return jnp.moveaxis(jnp.concatenate([root * moved, apart]), 1, 0)


def _blend(small, bary, values):
    """Values [n, ...] on the cut's vertices to the landmarks [478, ...]."""
    return jnp.einsum("lk...,lk->l...", values[small.faces], bary, precision="highest")


def _box_newton(x, hessian, gradient, low, high, rounds=3):
    """Minimiser of a quadratic model in a box: projected Newton (Bertsekas 1982)."""
    steps = jnp.array([1.0, 0.5, 0.2, 0.05, 0.0])

    def body(z, _):
        slope = gradient + hessian @ (z - x)
        fixed = ((z <= low) & (slope > 0)) | ((z >= high) & (slope < 0))
        free = 1.0 - fixed
        reduced = hessian * free[:, None] * free[None] + jnp.diag(1.0 - free)
        direction = -jax.scipy.linalg.solve(reduced, slope * free, assume_a="pos")
        tries = jnp.clip(
            z[None] + steps[:, None] * direction[None], low[None], high[None]
        )
        shift = tries - x[None]
        value = shift @ gradient + 0.5 * ((shift @ hessian) * shift).sum(1)
        return tries[value.argmin()], None

    z, _ = jax.lax.scan(body, x, length=rounds)
    return z


def version(head, landmark_map=None):
    """12 hex digits of what decides a fit besides the landmarks: rules, map, head."""
    landmark_map = load_map(head) if landmark_map is None else landmark_map
    digest = hashlib.sha256(RULES.encode())
    digest.update(head.hash().encode())
    for array in (landmark_map.faces, landmark_map.weights):
        digest.update(np.ascontiguousarray(array).tobytes())
    for array in (head.posedirs, head.joint_regressor, head.weights):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:12]


def smooth(motion, expression_bounds=(0.0, 1.0)):
    """The published filters: Savitzky-Golay (5, 2) on expression, jaw; (7, 2) on neck.

    They overshoot where a coefficient stays at its bound, so expression is clipped to
    `expression_bounds` afterwards. Clips shorter than a window pass unfiltered.
    """
    motion = np.array(motion, np.float32)
    for part, window in ((slice(0, mo.JAW.stop), 5), (mo.NECK, 7)):
        if len(motion) >= window:
            motion[:, part] = savgol_filter(motion[:, part], window, 2, axis=0)
    motion[:, mo.EXPRESSION] = motion[:, mo.EXPRESSION].clip(*expression_bounds)
    return motion
