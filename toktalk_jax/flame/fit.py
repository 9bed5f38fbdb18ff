"""Tracked landmarks to motion: regularised, box-constrained least squares.

Face trackers return points, not coefficients, and their blendshape scores move too few
mouth shapes. So the 478 landmarks of MediaPipe's face mesh are tied to the head's
surface by a fixed map (`tools/build_landmark_map.py`), and expression and jaw are solved
frame by frame so that the head's points move as the tracked ones do. The tracked face
and the head differ in shape: displacements from the talker's neutral are fitted, scaled
to the head, never positions.
"""

import functools
import hashlib
import importlib.resources
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.signal import savgol_filter

from toktalk_jax import motion as mo
from toktalk_jax.flame import model

LANDMARKS = 478
FITTED = 53  # expression and jaw; the neck comes from the tracker's pose
DEPTH_WEIGHT = 0.3  # a single camera sees depth badly
# Radians: opening, turn to the side, roll.
GAP_WEIGHT = 1.0  # how far the lips part, against where they are
STILL_REACH = 0.055  # metres from the middle: the tracker guesses the face's sides
JAW_RIDGE = 10.0  # a radian of jaw against a whole shape
JAW_LOW, JAW_HIGH = (-0.05, -0.12, -0.05), (0.6, 0.12, 0.05)

# Inner lips from the subject's right corner to the left one, upper and lower.
INNER_UPPER = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
INNER_LOWER = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
_OUTER = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291)
_OUTER += (146, 91, 181, 84, 17, 314, 405, 321, 375)
LIPS = tuple(sorted({*_OUTER, *INNER_UPPER, *INNER_LOWER}))
_LIDS = (33, 246, 161, 160, 159, 158, 157, 173, 133, 7, 163, 144, 145, 153, 154, 155)
_LIDS += (263, 466, 388, 387, 386, 385, 384, 398, 362)
_LIDS += (249, 390, 373, 374, 380, 381, 382)
_BROWS = (70, 63, 105, 66, 107, 46, 53, 52, 65, 55)
_BROWS += (300, 293, 334, 296, 336, 276, 283, 282, 295, 285)
_NOSE_BASE = 2
_IRISES = tuple(range(468, 478))


class LandmarkMap(NamedTuple):
    """Where each landmark sits on the head: face [478], weights [478, 3]."""

    faces: np.ndarray
    weights: np.ndarray


class Fit(NamedTuple):
    """Result of `fit_landmarks`; lengths in metres on the head.

    Attributes:
      motion: [T, 56] float32, as fitted, unfiltered.
      target: [T, 478, 3] the tracked points carried to the head, leftover pose taken out.
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


def topology(head):
    """12 hex digits of a head's triangles, which a landmark map is bound to."""
    faces = np.ascontiguousarray(head.faces, np.int32)
    return hashlib.sha256(faces.tobytes()).hexdigest()[:12]


def load_map(head, path=None):
    """The landmark map of a head; None is the one shipped for the stand-in.

    Raises:
      FileNotFoundError: no such file.
      ValueError: the map was made for another topology.
    """
    if path is None:
        path = importlib.resources.files("toktalk_jax.flame") / "data/landmark_map.npz"
    path = pathlib.Path(str(path))
    if not path.is_file():
        raise FileNotFoundError(
            f"no landmark map at {path}; make one with tools/build_landmark_map.py"
        )
    with np.load(path, allow_pickle=False) as stored:
        faces, weights, made_for = (
            stored[k] for k in ("faces", "weights", "triangles")
        )
    if str(made_for) != topology(head):
        raise ValueError(
            f"{path} was made for the triangles {made_for}; those of head {head.name!r} "
            f"are {topology(head)}: make its own map with tools/build_landmark_map.py"
        )
    return LandmarkMap(faces, weights)


def surface_points(head, landmark_map, vertices):
    """Landmarks [..., 478, 3] of vertices [..., V, 3]."""
    corners = np.asarray(head.faces)[landmark_map.faces]
    weights = jnp.asarray(landmark_map.weights)
    picked = jnp.asarray(vertices)[..., corners, :]
    return jnp.einsum("...lkc,lk->...lc", picked, weights, precision="highest")


def reduce_head(head, landmark_map):
    """The head cut to the vertices under the landmarks, and the map onto that cut.

    Joints hang on vertices far from the face, so five free vertices are appended that
    stand at the joints and move as they do: `model.vertices` then runs unchanged.
    """
    corners = np.asarray(head.faces)[landmark_map.faces]
    kept, places = np.unique(corners, return_inverse=True)
    regressor = np.asarray(head.joint_regressor)

    def cut(array):
        joints = np.einsum("jv,v...->j...", regressor, np.asarray(array))
        return jnp.asarray(np.concatenate([np.asarray(array)[kept], joints]))

    posedirs = np.asarray(head.posedirs).reshape(36, -1, 3)[:, kept]
    still = np.zeros((36, model_joints := len(regressor), 3), posedirs.dtype)
    posedirs = np.concatenate([posedirs, still], axis=1)
    weights = np.asarray(head.weights)[kept]
    weights = np.concatenate([weights, np.eye(model_joints, dtype=weights.dtype)])
    small = head.replace(
        v_template=cut(head.v_template),
        faces=jnp.asarray(places.reshape(-1, 3), jnp.int32),
        shape_dirs=cut(head.shape_dirs),
        expression_dirs=cut(head.expression_dirs),
        posedirs=jnp.asarray(posedirs.reshape(36, -1)),
        joint_regressor=jnp.eye(model_joints, len(weights), len(kept)),
        weights=jnp.asarray(weights),
    )
    return small, LandmarkMap(np.arange(len(corners)), landmark_map.weights)


def default_weights():
    """Weight of each landmark [478]: lips lead, then lids and brows, then skin."""
    weights = np.full(LANDMARKS, 0.3, np.float32)
    for group, value in ((_LIDS, 1.0), (_BROWS, 1.0), (_IRISES, 1.0), (LIPS, 3.0)):
        weights[list(group)] = value
    weights[[*INNER_UPPER, *INNER_LOWER]] = 6.0
    return weights


def similarity(source, target, weights):
    """Scale, rotation [3, 3] and shift [3] that lay source [n, 3] on target (Umeyama)."""
    weights = (weights / weights.sum())[:, None]
    mean_s, mean_t = (weights * source).sum(0), (weights * target).sum(0)
    s, t = source - mean_s, target - mean_t
    u, d, vt = np.linalg.svd((weights * t).T @ s)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * sign) @ vt
    scale = (d * sign).sum() / (weights * s**2).sum()
    return scale, rotation, mean_t - scale * rotation @ mean_s


def carry(landmarks, neutral, rest, scale=None):
    """Tracked landmarks carried to the head: its rest points plus scaled displacements.

    Args:
      landmarks: [T, 478, 3] any unit, x to the subject's left, y up, z to the camera.
      neutral: [478, 3] the talker at rest with closed lips, same frame and unit.
      rest: [478, 3] the head's own points at rest, metres.
      scale: metres per unit; None takes the similarity's.

    Returns:
      [T, 478, 3] metres.
    """
    weights = np.ones(LANDMARKS)
    weights[list(_IRISES)] = 0
    found, rotation, _ = similarity(neutral, rest, weights)
    scale = found if scale is None else scale
    return rest + scale * np.einsum("tlc,dc->tld", landmarks - neutral, rotation)


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
    still = (rest[:, 1] > rest[_NOSE_BASE, 1]) & (np.abs(rest[:, 0]) < STILL_REACH)
    still[[*_LIDS, *_IRISES]] = False
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


def fit_landmarks(
    head,
    landmarks,
    neutral,
    landmark_map=None,
    neck=None,
    scale=None,
    ridge=0.5,
    steady=0.5,
    expression_bounds=(0.0, 1.0),
    iterations=(3, 4),
):
    """Expression and jaw whose landmarks move as the tracked ones.

    Minimises, over each frame's expression e and jaw j within their bounds, the weighted
    squared distance (mm) of the head's points to the carried ones, depth counting 0.3,
    plus `ridge` (mm^2) per squared coefficient and `steady` per squared difference from
    the neighbouring frames. Gauss-Newton with a projected Newton step per frame.

    Args:
      head: `assets.Head`.
      landmarks: [T, 478, 3] tracked, with the head's pose taken out.
      neutral: [478, 3] the talker at rest with closed lips.
      landmark_map: `LandmarkMap` of this head; None is the shipped one.
      neck: [T, 3] axis-angle of the head's turn, copied into the motion; None is zeros.
      scale: metres on the head per landmark unit; None fits face to face.
      expression_bounds: (0, 1) for the stand-in's ARKit shapes; (-3, 3) suits FLAME.

    Returns:
      `Fit`.

    Raises:
      ValueError: wrong shapes, or values that are not finite.
    """
    landmarks, neutral = np.asarray(landmarks, np.float32), np.asarray(neutral)
    _check(landmarks, neutral, neck)
    landmark_map = load_map(head) if landmark_map is None else landmark_map
    small, small_map = _reduced(head, landmark_map)
    rest = np.asarray(surface_points(small, small_map, small.v_template))
    target = carry(landmarks, neutral, rest, scale).astype(np.float32)
    padded = -(-len(target) // 25) * 25  # few lengths, few compilations
    filled = np.pad(target, ((0, padded - len(target)), (0, 0), (0, 0)), mode="edge")
    low, high = _bounds(small, expression_bounds)
    solved = jnp.broadcast_to(jnp.clip(0.0, low, high)[None], (padded, FITTED))
    for rounds in iterations:
        solved, fitted = _solve(
            small,
            jnp.asarray(small_map.weights),
            jnp.asarray(filled),
            solved,
            jnp.asarray(default_weights()),
            low,
            high,
            ridge,
            steady,
            rounds,
        )
        if rounds is not iterations[-1]:
            filled = filled - leftover_pose(filled - np.asarray(fitted), rest)
    target = filled[: len(target)]
    motion = np.zeros((len(target), mo.F), np.float32)
    motion[:, :FITTED] = np.asarray(solved)[: len(target)]
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


_CACHE = {}


def _reduced(head, landmark_map):
    """`reduce_head`, kept for the last head: it is asked for once per clip."""
    key = (id(head.v_template), id(landmark_map.faces))
    if key not in _CACHE:
        _CACHE.clear()
        _CACHE[key] = (reduce_head(head, landmark_map), head, landmark_map)
    return _CACHE[key][0]


def _bounds(small, expression_bounds):
    """Lower and upper bounds [53]; a shape that moves no landmark is held at zero."""
    moves = np.abs(np.asarray(small.expression_dirs)).max((0, 1)) > 1e-7
    low = np.concatenate([np.where(moves, expression_bounds[0], 0.0), JAW_LOW])
    high = np.concatenate([np.where(moves, expression_bounds[1], 0.0), JAW_HIGH])
    return jnp.asarray(low, jnp.float32), jnp.asarray(high, jnp.float32)


@functools.partial(jax.jit, static_argnames="iterations")
def _solve(small, bary, target, start, weights, low, high, ridge, steady, iterations):
    """Gauss-Newton over all frames; a frame's neighbours enter by their last values."""
    prior = jnp.where(high > low, ridge, 1.0).at[50:].set(JAW_RIDGE * ridge)
    axes = 1e3 * jnp.array([1.0, 1.0, DEPTH_WEIGHT])[:, None]
    # A shape's points turn with the jaw by its skinning share (exact but for the spread
    # of the weights over one triangle): rows of the part that turns, and of the rest.
    basis = _blend(small, bary, small.expression_dirs)
    share = _blend(small, bary, small.weights)[:, model.JAW, None, None]
    turning, still = _rows(share * basis, weights), _rows((1 - share) * basis, weights)

    def points(x):
        motion = jnp.concatenate([x, jnp.zeros(3)])
        return _blend(small, bary, model.vertices(small, motion, pose=False))

    def frame(x, goal, neighbours):
        turn = model.rodrigues(x[50:])
        shapes = still + (turn @ turning.reshape(3, -1)).reshape(still.shape)
        by_jaw = jax.jacfwd(lambda jaw: points(jnp.concatenate([x[:50], jaw])))(x[50:])
        jacobian = jnp.concatenate([shapes, _rows(by_jaw, weights)], axis=-1)
        jacobian = (axes[..., None] * jacobian).reshape(-1, FITTED)
        error = (axes * _rows(points(x) - goal, weights)).ravel()
        hessian = jacobian.T @ jacobian + jnp.diag(prior * (1 + steady))
        gradient = jacobian.T @ error + prior * x + steady * prior * (x - neighbours)
        return _box_newton(x, hessian, gradient, low, high)

    def sweep(x, _):
        ahead = jnp.concatenate([x[1:], x[-1:]])
        behind = jnp.concatenate([x[:1], x[:-1]])
        return jax.vmap(frame)(x, target, (ahead + behind) / 2), None

    x, _ = jax.lax.scan(sweep, start, length=iterations)
    return x, jax.vmap(points)(x)


def _rows(moved, weights):
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
    """12 hex digits of all that decides a fit besides the landmarks: map, head, code."""
    landmark_map = load_map(head) if landmark_map is None else landmark_map
    digest = hashlib.sha256(pathlib.Path(__file__).read_bytes())
    digest.update(head.hash().encode())
    for array in (landmark_map.faces, landmark_map.weights):
        digest.update(np.ascontiguousarray(array).tobytes())
    for array in (head.posedirs, head.joint_regressor, head.weights):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:12]


def smooth(motion):
    """The published filters: Savitzky-Golay (5, 2) on expression and jaw, (7, 2) on neck.

    Clips shorter than a window are returned as they are (DiffPoseTalk's targets).
    """
    motion = np.asarray(motion, np.float32).copy()
    for part, window in ((slice(0, mo.JAW.stop), 5), (mo.NECK, 7)):
        if len(motion) >= window:
            motion[:, part] = savgol_filter(motion[:, part], window, 2, axis=0)
    return motion


def inner_lip_gap(points):
    """Mean distance [...] between the inner lips of landmarks [..., 478, 3].

    The mean over the nine facing pairs between the corners, in the points' own unit and
    in the plane of the face: depth is a guess of the tracker, and at rest one lip lies
    behind the other.
    """
    upper, lower = list(INNER_UPPER[1:-1]), list(INNER_LOWER[1:-1])
    points = np.asarray(points)
    apart = points[..., upper, :2] - points[..., lower, :2]
    return np.linalg.norm(apart, axis=-1).mean(-1)
