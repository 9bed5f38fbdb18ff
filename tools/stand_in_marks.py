"""Regions and the 68 landmarks of the stand-in head, on MakeHuman's base mesh."""

import collections

import numpy as np

# The lips are closed edge loops around the mouth, 38 vertices each. One upper vertex of
# the middle line names each, from the border of the upper lip inwards; the loop of
# index CONTACT is where the lips meet.
LIP_LOOPS = (455, 466, 467, 509, 468, 474, 520)
LIP_CONTACT = 474
LIP_BORDER = 455
MOUTH_LOOP = 537  # the first loop inside the mouth
# How far each loop follows the closing of the slit, and whose gap it follows.
LIP_SHIFT = {
    467: (474, 0.25),
    509: (474, 0.5),
    468: (474, 0.8),
    474: (474, 1.0),
    520: (520, 1.0),
    537: (520, 0.5),
}
LID_LOOP = 6784  # the margin of the left eyelids, named by its upper middle
BROW = np.array([[11, 744], [20, 748], [30, 750], [40, 748.5], [48, 743]])  # mm
NOSE_LINE = np.array([[0, 728], [0, 716], [0, 704], [0, 692]])
NOSTRIL = np.array([[0, 680], [6, 681.5], [12, 685]])
CONTOUR = np.array(  # chin to temple, left side, mm with depth
    [
        *([0, 618, 140], [14, 620, 138], [28, 626, 128], [40, 637, 112]),
        *([50, 650, 95], [58, 667, 80], [65, 685, 71], [70, 704, 68], [72, 726, 70]),
    ]
)
SIDES = ("Left", "Right")


class Loops:
    """Edge loops of the body's quads: straight on through vertices of four edges."""

    def __init__(self, source):
        body = source.quads[source.quad_part == "body"]
        self.links = collections.defaultdict(set)
        self.touching = collections.defaultdict(set)
        for index, quad in enumerate(body):
            for a, b in zip(quad, np.roll(quad, -1), strict=True):
                self.links[a].add(b)
                self.links[b].add(a)
                self.touching[a].add(index)

    def closed(self, start, first):
        """Vertices of the loop from `start` over `first` back to it."""
        path = [start, first]
        while len(path) < 500:
            before, here = path[-2:]
            shared = self.touching[before] & self.touching[here]
            ahead = [
                j
                for j in self.links[here]
                if j != before and not self.touching[j] & self.touching[here] & shared
            ]
            if len(self.links[here]) != 4 or len(ahead) != 1:
                break
            if ahead[0] == start:
                return np.array(path)
            path.append(ahead[0])
        raise ValueError(f"the edge loop from vertex {start} does not close")

    def around(self, source, base_vertex):
        """The loop that starts sideways (to the head's left) at a base vertex."""
        start = source.at([base_vertex])[0]
        x = source.vertices
        level = sorted(
            self.links[start],
            key=lambda j: abs(x[j, 1] - x[start, 1]) - 3 * (x[j, 0] - x[start, 0]),
        )
        return self.closed(start, level[0])

    def inside(self, seeds, fence):
        """Vertices reached from `seeds` without stepping on `fence`."""
        reached, stack, fence = set(), list(seeds), set(fence)
        while stack:
            here = stack.pop()
            if here not in reached and here not in fence:
                reached.add(here)
                stack.extend(self.links[here])
        return np.array(sorted(reached))


def halves(source, loop):
    """A closed loop as two curves from its inner (low x) to its outer (high x) end.

    For the mouth, a loop around the middle line, the curves are those of the left side.

    Returns:
      (upper, lower): vertex index arrays, both ends included.
    """
    start = loop[0]  # `around` begins at an upper vertex
    x = source.vertices[loop, 0]
    on_middle = np.nonzero(np.abs(x) < 3e-4)[0]
    outer = int(np.argmax(x))
    loop = np.roll(loop, -outer)
    if len(on_middle) == 2:
        ends = sorted((on_middle - outer) % len(loop))
        one, other = loop[: ends[0] + 1][::-1], loop[np.r_[ends[1] : len(loop), 0]]
    else:
        inner = int(np.argmin(source.vertices[loop, 0]))
        one, other = loop[: inner + 1][::-1], loop[np.r_[inner : len(loop), 0]]
    return (one, other) if start in one else (other, one)


def along(source, curve, shares):
    """Points at shares of a curve's length, as edge points (a, b, weight of b)."""
    lengths = np.linalg.norm(np.diff(source.vertices[curve], axis=0), axis=1)
    at = np.concatenate([[0], np.cumsum(lengths)])
    points = []
    for share in shares:
        k = min(int(np.searchsorted(at, share * at[-1], "right")) - 1, len(lengths) - 1)
        weight = (share * at[-1] - at[k]) / lengths[k]
        points.append((curve[k], curve[k + 1], float(np.clip(weight, 0, 1))))
    return points


def position(source, point):
    """[3] place of an edge point."""
    a, b, weight = point
    return (1 - weight) * source.vertices[a] + weight * source.vertices[b]


def at_side(source, curve, x):
    """The edge point of a curve, x growing along it, at a given x."""
    places = source.vertices[curve, 0]
    k = int(np.clip(np.searchsorted(places, x) - 1, 0, len(curve) - 2))
    weight = (x - places[k]) / (places[k + 1] - places[k])
    return curve[k], curve[k + 1], float(np.clip(weight, 0, 1))


def touching(source, rung, curve):
    """The point of the upper rung (a, b) and of the lower curve that lie closest.

    The upper lip hangs before the lower one, so a point of its rim alone would keep a
    gap of some millimetres in depth when the lips are shut.
    """
    pairs = []
    for weight in np.linspace(0, 1, 33):
        top = (*rung, float(weight))
        place = position(source, top)
        low = at_side(source, curve, place[0])
        pairs.append((np.linalg.norm(place - position(source, low)), top, low))
    return min(pairs, key=lambda pair: pair[0])[1:]


def nearest_front(source, targets):
    """The skin vertex next to each target, as edge points.

    Args:
      targets: [n, 2] as seen from the front, or [n, 3]; mm in MakeHuman's frame.
    """
    skin = source.part("body")
    skin = skin[source.vertices[skin, 2] > 0.06]  # before the ears
    points = []
    for target in targets / 1000:
        place = source.vertices[skin]
        distance = np.linalg.norm(place[:, : len(target)] - target, axis=1)
        if target[0] == 0:
            distance = distance + (np.abs(place[:, 0]) > 3e-4)  # the middle line only
        near = distance < max(0.004, distance.min() + 1e-6)
        near &= place[:, 2] > place[near, 2].max() - 0.012  # not the inner mouth
        chosen = skin[near][np.argmin(distance[near])]
        points.append((chosen, chosen, 0.0))
    return points


def landmarks(source, loops):
    """The 68 iBUG landmarks as symmetric edge points (a, b, weight of b)."""

    def mirrored(points):
        return [(source.mirror[a], source.mirror[b], w) for a, b, w in points]

    def both(points):  # left side, middle outwards -> right to left across the face
        return mirrored(points[::-1]) + points

    contour = nearest_front(source, CONTOUR)
    jaw_line = mirrored(contour[:0:-1]) + contour
    brow = nearest_front(source, BROW)
    nose = nearest_front(source, NOSE_LINE)
    nostril = nearest_front(source, NOSTRIL)
    lid_up, lid_down = halves(source, loops.around(source, LID_LOOP))
    upper = along(source, lid_up, (0, 1 / 3, 2 / 3, 1))
    lower = along(source, lid_down, (2 / 3, 1 / 3))
    left_eye = upper + lower  # 42-47: inner, upper two, outer, lower two
    right_eye = mirrored([left_eye[k] for k in (3, 2, 1, 0, 5, 4)])
    out_up, out_down = halves(source, loops.around(source, LIP_BORDER))
    in_up, in_down = halves(source, loops.around(source, LIP_CONTACT))
    outer_top = along(source, out_up, (0, 1 / 3, 2 / 3, 1))
    outer_low = along(source, out_down, (0, 1 / 3, 2 / 3))
    behind, _ = halves(source, loops.around(source, LIP_LOOPS[-1]))
    inner_top, inner_low = [], []
    for k in (0, len(in_up) // 2):  # the pairs 62-66 and 63-65 touch at rest
        top, low = touching(source, (in_up[k], behind[k]), in_down)
        inner_top.append(top)
        inner_low.append(low)
    inner_top += along(source, in_up, (1,))
    return [
        *jaw_line,
        *both(brow),
        *nose,
        *mirrored(nostril[:0:-1]),
        *nostril,
        *right_eye,
        *left_eye,
        *mirrored(outer_top[:0:-1]),
        *outer_top,
        *outer_low[::-1],
        *mirrored(outer_low[1:]),
        *mirrored(inner_top[:0:-1]),
        *inner_top,
        *inner_low[::-1],
        *mirrored(inner_low[1:]),
    ]


def on_faces(points, faces):
    """Edge points to (face [n], barycentric weights [n, 3])."""
    owner, weights = [], np.zeros((len(points), 3))
    for row, (a, b, share) in enumerate(points):
        holds = (faces == a).any(1) & (faces == b).any(1)
        face = int(np.nonzero(holds)[0][0])
        owner.append(face)
        weights[row, faces[face] == b] += share
        weights[row, faces[face] == a] += 1 - share
    return np.array(owner, np.int32), weights.astype(np.float32)


def regions(source, loops):
    """Named vertex sets [n] by edge loops, position and the reach of shapes."""
    x = source.vertices
    skin = np.isin(np.arange(len(x)), source.part("body"))

    def reach(names, millimetres):
        moved = [np.linalg.norm(source.shapes[n], axis=1) for n in names]
        return skin & (np.max(moved, axis=0) > millimetres / 1000)

    sided = [f"{n}{s}" for n in ("eyeBlink", "eyeSquint", "eyeWide") for s in SIDES]
    front = (x[:, 1] > 0.702) & (x[:, 2] > 0.06)  # from the cheekbones up
    outer_brow = [f"{n}{s}" for n in ("browDown", "browOuterUp") for s in SIDES]
    eye_region = reach(sided, 0.3) & front
    forehead = skin & (x[:, 1] > 0.742) & (x[:, 1] < 0.800) & (x[:, 2] > 0.095)
    brow_reach = reach(outer_brow, 1.0) & front
    brow_line = source.vertices[[a for a, _, _ in nearest_front(source, BROW)]]
    line = np.concatenate([brow_line, brow_line * [-1, 1, 1]])
    distance = np.linalg.norm(x[:, None, :] - line[None], axis=-1).min(1)
    brows = skin & (distance < 0.0065)
    rings = [loops.around(source, vertex) for vertex in LIP_LOOPS]
    wall = loops.around(source, MOUTH_LOOP)
    mouth = loops.inside(wall, rings[-1])
    found = {
        "lips": np.concatenate(rings),
        "mouth_inside": mouth,
        "eye_region": np.nonzero(eye_region)[0],
        "forehead": np.nonzero(forehead)[0],
        "upper_face": np.nonzero(eye_region | forehead | brow_reach)[0],
        "brows": np.nonzero(brows)[0],
        "upper_teeth": source.part("helper-upper-teeth"),
        "lower_teeth": source.part("helper-lower-teeth"),
        "left_eyeball": source.part("helper-l-eye"),
        "right_eyeball": source.part("helper-r-eye"),
        "rim": source.rim,
    }
    return {name: np.unique(v).astype(np.int32) for name, v in found.items()}


def meet_lips(source, loops):
    """The source with lips that touch at rest.

    MakeHuman's leave a slit of up to a millimetre through which teeth show. The facing
    vertices of the contact loop and of the loops beside it move half way each.
    """
    x = source.vertices.copy()
    gaps = {}
    for base in (LIP_CONTACT, LIP_LOOPS[-1]):
        upper, lower = halves(source, loops.around(source, base))
        order = np.argsort(x[upper, 0])
        facing = np.interp(x[upper, 0], x[lower, 0], x[lower, 1])
        gaps[base] = (x[upper, 0][order], (x[upper, 1] - facing)[order])
    for base, (like, share) in LIP_SHIFT.items():
        curves = halves(source, loops.around(source, base))
        for curve, sign in zip(curves, (-1, 1), strict=True):
            shift = sign * share * np.interp(source.vertices[curve, 0], *gaps[like]) / 2
            x[curve, 1] = source.vertices[curve, 1] + shift
            x[source.mirror[curve], 1] = x[curve, 1]
    return source._replace(vertices=x)
