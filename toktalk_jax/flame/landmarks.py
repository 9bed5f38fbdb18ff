"""The tracker's 478 landmarks on a head: which they are, where they sit, how far apart.

MediaPipe's face mesh (468 points) and its irises (10), tied to the head's surface by a
fixed map that `tools/build_landmark_map.py` makes once.
"""

import hashlib
import importlib.resources
import pathlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

LANDMARKS = 478

# Inner lips from the subject's right corner to the left one, upper and lower.
INNER_UPPER = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
INNER_LOWER = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
_OUTER = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291)
_OUTER += (146, 91, 181, 84, 17, 314, 405, 321, 375)
LIPS = tuple(sorted({*_OUTER, *INNER_UPPER, *INNER_LOWER}))
LIDS = (33, 246, 161, 160, 159, 158, 157, 173, 133, 7, 163, 144, 145, 153, 154, 155)
LIDS += (263, 466, 388, 387, 386, 385, 384, 398, 362)
LIDS += (249, 390, 373, 374, 380, 381, 382)
BROWS = (70, 63, 105, 66, 107, 46, 53, 52, 65, 55)
BROWS += (300, 293, 334, 296, 336, 276, 283, 282, 295, 285)
NOSE_BASE = 2
IRISES = tuple(range(468, 478))


class LandmarkMap(NamedTuple):
    """Where each landmark sits on the head: face [478], weights [478, 3]."""

    faces: np.ndarray
    weights: np.ndarray


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
            f"{path} was made for the triangles {made_for}; head {head.name!r} has "
            f"{topology(head)}: make its own map with tools/build_landmark_map.py"
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


def similarity(source, target, weights):
    """Scale, rotation [3, 3], shift [3] that lay source [n, 3] on target (Umeyama)."""
    weights = (weights / weights.sum())[:, None]
    mean_s, mean_t = (weights * source).sum(0), (weights * target).sum(0)
    s, t = source - mean_s, target - mean_t
    u, d, vt = np.linalg.svd((weights * t).T @ s)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * sign) @ vt
    scale = (d * sign).sum() / (weights * s**2).sum()
    return scale, rotation, mean_t - scale * rotation @ mean_s


def take_out_pose(points, still, rounds=3):
    """Landmarks [T, 478, 3] laid on their own median by a similarity per frame.

    Args:
      points: any unit.
      still: [478] bool, those that a face hardly moves.

    Returns:
      [T, 478, 3] of the first frame's place and size.
    """
    weights = np.asarray(still, np.float64)
    out = np.asarray(points, np.float64)
    for k in range(rounds):
        middle = np.median(out, 0) if k else out[0]
        laid = [similarity(frame, middle, weights) for frame in out]
        out = np.stack(
            [s * f @ r.T + shift for f, (s, r, shift) in zip(out, laid, strict=True)]
        )
    return out


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
    weights[list(IRISES)] = 0
    found, rotation, _ = similarity(neutral, rest, weights)
    scale = found if scale is None else scale
    return rest + scale * np.einsum("tlc,dc->tld", landmarks - neutral, rotation)


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
