"""A head's motion as morph targets and joints: what glTF and USD both hold.

FLAME is such a rig, exactly: expressions and pose correctives are morph targets, the
latter weighed by the entries of R - I; and as its joints follow the expression, a joint
here moves as well as turns. Coefficients may be negative, so morph weights may too.
"""

from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from toktalk_jax import motion as mo
from toktalk_jax.flame import model

JOINTS = ("root", "neck", "jaw", "left_eye", "right_eye")
STILL_M = 1e-7  # a target that moves no vertex further is left out
PALETTE = {  # sRGB, of material groups and regions, later ones over earlier
    "skin": (0.80, 0.62, 0.53),
    "eyes": (0.93, 0.92, 0.90),
    "lashes": (0.16, 0.11, 0.09),
    "teeth": (0.93, 0.90, 0.83),
    "tongue": (0.72, 0.33, 0.33),
    "lips": (0.72, 0.42, 0.40),
    "mouth_inside": (0.35, 0.12, 0.12),
}
IRIS, PUPIL = ((0.29, 0.38, 0.42), 0.0065), ((0.04, 0.04, 0.05), 0.003)  # to metres


class Animated(NamedTuple):
    """A head and its motion; metres, x to the head's left, y up, facing +z.

    Attributes:
      name: of the head.
      fps: frames per second.
      points: [V, 3] at rest.
      faces: [Fc, 3], without lash cards, which are bars where no texture cuts them.
      colours: [V, 3] sRGB in [0, 1].
      joints: [5, 3] places at rest, in the order of `JOINTS`.
      influences, shares: [V, 4] joints of each vertex and their weights, which sum to
        one; joint 0 fills what is not needed.
      targets: M names; deltas: [M, V, 3].
      weights: [T, M] of the targets.
      turns: [T, 5, 4] quaternions x, y, z, w in the parent's frame.
      places: [T, 5, 3] translations in the parent's frame.
    """

    name: str
    fps: float
    points: np.ndarray
    faces: np.ndarray
    colours: np.ndarray
    joints: np.ndarray
    influences: np.ndarray
    shares: np.ndarray
    targets: list
    deltas: np.ndarray
    weights: np.ndarray
    turns: np.ndarray
    places: np.ndarray


def animate(head, motion, fps=mo.FPS, head_joint="neck"):
    """`Animated` of motion coefficients; vertices as `flame.model.vertices` has them.

    Args:
      head: `assets.Head`.
      motion: [T, 56] raw coefficients.
      head_joint: "neck" or "root", as in `flame.model.vertices`.

    Raises:
      ValueError: another shape, no frame, values that are not finite, an unknown joint
        or a rate that is none.
    """
    motion = np.asarray(motion, np.float64)
    if motion.ndim != 2 or motion.shape[1] != mo.F or not len(motion):
        raise ValueError(f"motion is {motion.shape}; expected [T, {mo.F}] with T > 0")
    if not np.isfinite(motion).all():
        raise ValueError("motion holds NaN or Inf values")
    if not 0 < fps < 1000:
        raise ValueError(f"fps is {fps}; expected frames per second")
    if head_joint not in model.HEAD_JOINTS:
        raise ValueError(f"head_joint is {head_joint!r}; expected neck or root")
    pose = np.zeros((len(motion), len(JOINTS), 3))
    pose[:, model.JAW] = motion[:, mo.JAW]
    pose[:, model.HEAD_JOINTS[head_joint]] = motion[:, mo.NECK]
    turns = Rotation.from_rotvec(pose.reshape(-1, 3))
    matrices = turns.as_matrix().reshape(*pose.shape, 3)
    points = np.asarray(head.v_template, np.float64)
    joints = np.asarray(head.joint_regressor, np.float64) @ points
    targets, deltas, weights = _targets(head, motion[:, mo.EXPRESSION], matrices)
    influences, shares = _influences(np.asarray(head.weights))
    faces = np.asarray(head.faces)
    return Animated(
        head.name,
        float(fps),
        points.astype(np.float32),
        faces[~np.isin(faces[:, 0], head.groups.get("lashes", []))],
        _colours(head, points, joints),
        joints,
        influences,
        shares,
        targets,
        deltas,
        weights,
        turns.as_quat(canonical=True).reshape(*pose.shape[:2], 4),
        _places(head, motion[:, mo.EXPRESSION], matrices, joints),
    )


def _targets(head, expression, matrices):
    """Names, deltas [M, V, 3], weights [T, M]: expressions, then pose correctives."""
    deltas = np.moveaxis(np.asarray(head.expression_dirs), -1, 0)
    names = [f"expression_{k:02}" for k in range(len(deltas))]
    if head.name == "stand_in":
        names[: len(mo.ARKIT_EXPRESSION)] = mo.ARKIT_EXPRESSION
    posed = np.asarray(head.posedirs).reshape(len(head.posedirs), -1, 3)
    turned = matrices[:, 1:] - np.eye(3)
    names += [
        f"{joint}_corrective_{row}{column}"
        for joint in JOINTS[1:]
        for row in range(3)
        for column in range(3)
    ]
    deltas = np.concatenate([deltas, posed])
    weights = np.concatenate([expression, turned.reshape(len(turned), -1)], 1)
    # Of the eyes, which never turn here, no corrective is kept.
    count = len(names) - 9 * len(model.PARENTS[3:])
    moves = np.abs(deltas[:count]).max((1, 2)) > STILL_M
    kept = np.flatnonzero(moves)
    return [names[k] for k in kept], deltas[kept], weights[:, kept].astype(np.float32)


def _influences(weights):
    """Joints and shares [V, 4]; a fifth folds into the neck, with which eyes turn."""
    weights = weights.astype(np.float64)
    full = np.flatnonzero((weights > 0).all(1))
    least = 3 + weights[full, 3:].argmin(1)
    weights[full, model.NECK] += weights[full, least]
    weights[full, least] = 0
    order = np.argsort(-weights, axis=1, kind="stable")[:, :4]
    shares = np.take_along_axis(weights, order, 1)
    shares /= shares.sum(1, keepdims=True)
    return np.where(shares > 0, order, 0).astype(np.uint8), shares.astype(np.float32)


def _colours(head, points, joints):
    """[V, 3] sRGB by material and region; on the eyes by distance from their axis."""
    colours = np.tile(PALETTE["skin"], (len(points), 1))
    for name, colour in PALETTE.items():
        colours[head.groups.get(name, head.regions.get(name, []))] = colour
    eyes = np.asarray(head.groups.get("eyes", []), int)
    for joint in joints[3:]:
        arm = points[eyes] - joint
        for colour, reach in (IRIS, PUPIL):
            near = (np.linalg.norm(arm[:, :2], axis=1) < reach) & (arm[:, 2] > 0)
            colours[eyes[near]] = colour
    return colours.astype(np.float32)


def _places(head, expression, matrices, joints):
    """[T, 5, 3] translations in the parent's frame.

    A vertex is turned about where its joint stands under the expression, J, but bound
    to the joint's place at rest, J0: so the joint is put at its place plus R (J0 - J).
    """
    regressor = np.asarray(head.joint_regressor, np.float64)
    follow = np.einsum("jv,vce->jce", regressor, np.asarray(head.expression_dirs))
    shift = np.einsum("jce,te->tjc", follow, expression)
    now = joints + shift
    world, stand, bound, local = [], [], [], []
    for joint, parent in enumerate(model.PARENTS):
        turn, place = matrices[:, joint], now[:, joint]
        if parent >= 0:
            arm = place - now[:, parent]
            place = stand[parent] + np.einsum("tab,tb->ta", world[parent], arm)
            turn = world[parent] @ turn
        world.append(turn)
        stand.append(place)
        bound.append(place - np.einsum("tab,tb->ta", turn, shift[:, joint]))
        own = bound[joint] - (bound[parent] if parent >= 0 else 0)
        back = world[parent] if parent >= 0 else np.broadcast_to(np.eye(3), turn.shape)
        local.append(np.einsum("tba,tb->ta", back, own))
    return np.stack(local, 1)


def extent(animated):
    """[T, 2, 3] lowest and highest corner of the head in each frame."""
    out = []
    for weights, turns, places in zip(
        animated.weights, animated.turns, animated.places, strict=True
    ):
        points = animated.points + np.tensordot(weights, animated.deltas, 1)
        moved = np.zeros_like(points)
        world = []
        for joint, parent in enumerate(model.PARENTS):
            matrix = np.eye(4)
            matrix[:3, :3] = Rotation.from_quat(turns[joint]).as_matrix()
            matrix[:3, 3] = places[joint]
            world.append(matrix if parent < 0 else world[parent] @ matrix)
            share = (animated.shares * (animated.influences == joint)).sum(1)
            turned = (points - animated.joints[joint]) @ world[joint][:3, :3].T
            moved += share[:, None] * (turned + world[joint][:3, 3])
        out.append([moved.min(0), moved.max(0)])
    return np.array(out)
