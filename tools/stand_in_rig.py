"""Turns the jaw shapes of the stand-in head into a joint, with weights and correctives.

Everything here is linear algebra on the arrays of `stand_in_source.Source`.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse import linalg

# The head above this tilted plane follows the neck joint fully: y + 0.7 z > 0.662 m
# runs from under the chin to the nape.
HEAD_TILT, HEAD_HEIGHT = 0.7, 0.662
NECK_JOINT = np.array([0.0, 0.625, 0.030])  # inside the neck, under the skull
ROOT_JOINT = np.array([0.0, 0.560, 0.025])
JAW, NECK, ROOT = 2, 1, 0


class Jaw(NamedTuple):
    """The jaw as a joint: pivot [3] metres; radians of jawOpen and of jawLeft."""

    pivot: np.ndarray
    open_angle: float
    side_angle: float


def rotation(axis_angle):
    """Rotation matrix [3, 3] of an axis-angle vector, radians."""
    angle = np.linalg.norm(axis_angle)
    if angle == 0:
        return np.eye(3)
    x, y, z = np.asarray(axis_angle) / angle
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * skew @ skew


def fit_jaw(source):
    """The rigid turn of the lower teeth under jawOpen and jawLeft.

    jawOpen: Procrustes; the pivot is that motion's fixed point in the middle plane.
    jawLeft: MakeHuman slides the teeth; here the turn about the pivot's vertical axis
    with the same sideways motion, by least squares.
    """
    teeth = source.part("helper-lower-teeth")
    rest, opened = source.vertices[teeth], source.vertices[teeth]
    opened = opened + source.shapes["jawOpen"][teeth]
    middle, moved = rest.mean(0), opened.mean(0)
    left, _, right = np.linalg.svd((rest - middle).T @ (opened - moved))
    sign = np.sign(np.linalg.det(right.T @ left.T))
    turn = right.T @ np.diag([1, 1, sign]) @ left.T
    shift = moved - turn @ middle
    angle = np.arctan2(turn[2, 1], turn[1, 1])
    pivot = np.zeros(3)
    pivot[1:] = np.linalg.solve(np.eye(2) - turn[1:, 1:], shift[1:])
    lever = rest[:, 2] - pivot[2]
    sideways = source.shapes["jawLeft"][teeth, 0]
    return Jaw(pivot, float(angle), float(lever @ sideways / (lever @ lever)))


def _graph(source):
    """Row-normalised adjacency [V, V] along quad edges."""
    count = len(source.vertices)
    quads = source.quads
    a = np.concatenate([quads[:, k] for k in range(4)])
    b = np.concatenate([quads[:, (k + 1) % 4] for k in range(4)])
    ones = np.ones(len(a))
    links = sparse.coo_matrix((ones, (a, b)), (count, count)).tocsr()
    links = ((links + links.T) > 0).astype(np.float64)
    return sparse.diags(1 / links.sum(1).A1) @ links


def _jaw_weights(source, jaw, graph, rounds=6):
    """[V] how far each vertex follows the jaw: jawOpen projected on the rotation."""
    arm = source.vertices - jaw.pivot
    ideal = arm @ rotation([jaw.open_angle, 0, 0]).T - arm
    # The floor (5 mm) quiets vertices near the pivot, where any weight fits.
    weights = (source.shapes["jawOpen"] * ideal).sum(1) / ((ideal**2).sum(1) + 0.005**2)
    weights = np.clip(weights, 0, 1)
    skin = source.part("body")
    for _ in range(rounds):
        weights[skin] = (weights + graph @ weights)[skin] / 2
    weights[weights < 1e-3] = 0
    for part, value in (("lower", 1.0), ("upper", 0.0)):
        weights[source.part(f"helper-{part}-teeth")] = value
    for name in ("eye", "eyelashes-1", "eyelashes-2"):
        weights[source.part(f"helper-l-{name}", f"helper-r-{name}")] = 0
    return weights


def _neck_weights(source, graph):
    """[V] how far each vertex follows the neck: 0 on the rim, 1 on the head.

    Harmonic between the two, then a smooth step.
    """
    x = source.vertices
    weights = np.ones(len(x))
    skin = source.part("body")
    low = x[:, 1] + HEAD_TILT * x[:, 2] < HEAD_HEIGHT
    # The jaw line hangs under the plane, yet belongs to the head: follow it from above.
    free = np.zeros(len(x), bool)
    free[skin] = low[skin]
    free &= ~_chin(source)
    free[source.rim] = False
    weights[source.rim] = 0
    laplacian = sparse.eye(len(x)) - graph
    inner = np.nonzero(free)[0]
    fixed = np.nonzero(~free)[0]
    load = -laplacian[inner][:, fixed] @ weights[fixed]
    weights[inner] = linalg.spsolve(laplacian[inner][:, inner].tocsc(), load)
    return weights**2 * (3 - 2 * weights)


def _chin(source):
    """[V] bool: skin that jawOpen carries by more than 5 mm."""
    return np.linalg.norm(source.shapes["jawOpen"], axis=1) > 0.005


def skin_weights(source, jaw):
    """[V, 5] weights of root, neck, jaw and eyes; rows sum to one."""
    graph = _graph(source)
    neck = _neck_weights(source, graph)
    weights = np.zeros((len(source.vertices), 5))
    weights[:, JAW] = _jaw_weights(source, jaw, graph) * neck
    weights[:, NECK] = neck - weights[:, JAW]
    weights[:, ROOT] = 1 - neck
    for joint, side in ((3, "l"), (4, "r")):
        ball = source.part(f"helper-{side}-eye")
        weights[ball] = 0
        weights[ball, joint] = 1
    return weights


def joints(source, jaw):
    """[5, 3] rest joints: root, neck, jaw pivot, eyeball centres (sphere fit)."""
    eyes = []
    for side in "lr":
        ball = source.vertices[source.part(f"helper-{side}-eye")]
        design = np.concatenate([2 * ball, np.ones((len(ball), 1))], 1)
        eyes.append(np.linalg.lstsq(design, (ball**2).sum(1), rcond=None)[0][:3])
    return np.stack([ROOT_JOINT, NECK_JOINT, jaw.pivot, *eyes])


def joint_regressor(source, places, nearest=60):
    """[5, V] rows that sum to one and give `places` from vertices no shape moves.

    So the joints of the stand-in stay where they are whatever the expression; the least
    weights on the nearest still vertices of both sides.
    """
    moved = max_motion(source)
    still = np.nonzero(moved < 1e-6)[0]
    regressor = np.zeros((5, len(source.vertices)))
    folded = source.vertices[still]
    folded[:, 0] = np.abs(folded[:, 0])  # both sides count as equally near
    for row, place in enumerate(places):
        distance = np.linalg.norm(folded - [abs(place[0]), *place[1:]], axis=1)
        chosen = still[np.argsort(distance, kind="stable")[:nearest]]
        chosen = np.unique(np.concatenate([chosen, source.mirror[chosen]]))
        system = np.concatenate([source.vertices[chosen].T, np.ones((1, len(chosen)))])
        goal = np.concatenate([place, [1.0]])
        regressor[row, chosen] = np.linalg.pinv(system) @ goal
    return regressor


def max_motion(source):
    """[V] metres: the farthest that any single shape takes each vertex."""
    return np.max([np.linalg.norm(d, axis=1) for d in source.shapes.values()], axis=0)


def _skinning(weights, jaw, axis_angle):
    """[V, 3, 3] blended matrices of a jaw turn (all else at rest)."""
    turn = rotation(axis_angle)
    return np.eye(3) + weights[:, JAW, None, None] * (turn - np.eye(3))


def _before_skinning(points, weights, jaw, axis_angle):
    """Rest positions that the jaw turn carries to `points` [V, 3]."""
    matrices = _skinning(weights, jaw, axis_angle)
    return (
        np.linalg.solve(matrices, (points - jaw.pivot)[..., None])[..., 0] + jaw.pivot
    )


def correctives(source, jaw, weights):
    """posedirs [V, 3, 36]: what the turn of the jaw leaves to jawOpen and jawLeft.

    The pose feature is R - I of each joint, row-major; its odd part along x is
    (R21 - R12) / 2 = sin(angle), so each remainder is divided by the sine of the angle
    at which it is exact. jawRight is the mirror image, so only the odd part of the side
    motion fits; MakeHuman's 4 mm thrust in both directions does not. The lower teeth
    get none: they stay rigid.
    """
    rigid = source.part("helper-lower-teeth")
    feature = np.zeros((len(source.vertices), 3, 36))
    first = 9 * (JAW - 1)

    def remainder(goal, axis_angle):
        before = _before_skinning(source.vertices + goal, weights, jaw, axis_angle)
        rest = before - source.vertices
        rest[rigid] = 0
        return rest

    opening = remainder(source.shapes["jawOpen"], [jaw.open_angle, 0, 0])
    opening /= 2 * np.sin(jaw.open_angle)
    feature[..., first + 7] += opening  # R21
    feature[..., first + 5] -= opening  # R12
    odd = (source.shapes["jawLeft"] - source.shapes["jawRight"]) / 2
    side = remainder(odd, [0, jaw.side_angle, 0]) / (2 * np.sin(jaw.side_angle))
    feature[..., first + 2] += side  # R02
    feature[..., first + 6] -= side  # R20
    return feature


def close_mouth(source, jaw, weights, posedirs):
    """mouthClose [V, 3] that shuts the lips of a jaw turned by the same share.

    The source adds mouthClose to jawOpen in place. Here the expression is added first
    and turned with the jaw, so its delta is fitted (least squares over jaw angles) to
    what the source shows at equal shares of jawOpen and mouthClose.
    """
    wanted = source.shapes["jawOpen"] + source.shapes["mouthClose"]
    first = 9 * (JAW - 1)
    normal = np.zeros((len(source.vertices), 3, 3))
    load = np.zeros_like(source.vertices)
    for share in (0.25, 0.5, 0.75, 1.0):
        angle = share * jaw.open_angle
        matrices = _skinning(weights, jaw, [angle, 0, 0])
        turned = np.sin(angle) * (posedirs[..., first + 7] - posedirs[..., first + 5])
        base = source.vertices + turned - jaw.pivot
        now = np.einsum("vij,vj->vi", matrices, base) + jaw.pivot
        missing = source.vertices + share * wanted - now
        normal += share**2 * np.swapaxes(matrices, 1, 2) @ matrices
        load += share * np.einsum("vji,vj->vi", matrices, missing)
    fitted = np.linalg.solve(normal, load[..., None])[..., 0]
    touched = np.linalg.norm(source.shapes["mouthClose"], axis=1) > 0
    return np.where(touched[:, None], fitted, 0.0)
