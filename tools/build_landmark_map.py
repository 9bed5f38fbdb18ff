"""Lay the tracker's 478 landmarks on a head, once: face indices and weights.

    python -m tools.build_landmark_map --task face_landmarker.task [--head FLAME.pkl]

The canonical mesh (468 vertices) is read from MediaPipe's `.task` file (a zip that
holds `geometry_pipeline_metadata_landmarks.binarypb`), aligned to the head by a
similarity and a smooth warp through anchors, and dropped onto the nearest skin. Lip
and eyelid rims are found by looking at the head from the front, column by column, and
matched as ordered curves, for the nearest point would put half the upper lip on the
lower. The outer lip, brows, nose and chin come from the head's own 68 landmarks. The
canonical mesh is Google's (Apache-2.0); the result holds only face indices and
weights of the head.
"""

import argparse
import pathlib
import struct
import zipfile

import numpy as np
from scipy.interpolate import RBFInterpolator

from toktalk_jax import motion as mo
from toktalk_jax.flame import assets, landmarks, model, regions
from toktalk_jax.flame.landmarks import INNER_LOWER, INNER_UPPER, similarity

OUT = pathlib.Path(__file__).resolve().parent.parent / (
    "toktalk_jax/flame/data/landmark_map.npz"
)
METADATA = "geometry_pipeline_metadata_landmarks.binarypb"

# Rings of MediaPipe's face mesh, from the subject's right corner to the left one.
OUTER_UPPER = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291)
OUTER_LOWER = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291)


# Two rows lie between them on each lip, at these shares of the way inwards.
MIDDLE_UPPER = (
    (76, 184, 74, 73, 72, 11, 302, 303, 304, 408, 306),
    (62, 183, 42, 41, 38, 12, 268, 271, 272, 407, 292),
)
MIDDLE_LOWER = (
    (76, 77, 90, 180, 85, 16, 315, 404, 320, 307, 306),
    (62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292),
)
RIGHT_EYE_UPPER = (33, 246, 161, 160, 159, 158, 157, 173, 133)
RIGHT_EYE_LOWER = (33, 7, 163, 144, 145, 153, 154, 155, 133)
LEFT_EYE_UPPER = (362, 398, 384, 385, 386, 387, 388, 466, 263)
LEFT_EYE_LOWER = (362, 382, 381, 380, 374, 373, 390, 249, 263)
IRISES = ((468, 469, 470, 471, 472), (473, 474, 475, 476, 477))  # right, left
# MediaPipe landmark of an iBUG one, where both name the same spot.
IBUG = {
    **{17: 70, 18: 63, 19: 105, 20: 66, 21: 107},  # right brow
    **{22: 336, 23: 296, 24: 334, 25: 293, 26: 300},  # left brow
    **{27: 168, 30: 4, 33: 2, 8: 152},  # nose bridge, tip, base; chin
}
COLUMN = 2e-4  # metres between the columns of a rim scan


def read_canonical(task):
    """Vertices [468, 3] in cm and triangles [898, 3] of the tracker's canonical mesh.

    Raises:
      ValueError: the file is no face landmarker bundle.
    """
    try:
        with zipfile.ZipFile(task) as bundle:
            raw = bundle.read(METADATA)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(
            f"{task} is no face landmarker .task file (a zip with {METADATA}): {error}"
        ) from error
    mesh = next(value for key, value in _fields(raw) if key == 1)
    rows = [struct.unpack("<f", v)[0] for key, v in _fields(mesh) if key == 3]
    indices = [value for key, value in _fields(mesh) if key == 4]
    vertices = np.asarray(rows).reshape(-1, 5)[:, :3]  # x y z u v
    if len(vertices) != 468:
        raise ValueError(
            f"{task}: canonical mesh has {len(vertices)} vertices, not 468"
        )
    return vertices, np.asarray(indices).reshape(-1, 3)


def _fields(message):
    """(field number, value) of a protocol buffer message, by its wire format."""
    place = 0

    def varint():
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(message):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 2: None, 5: 4}[key & 7]
        size = varint() if size is None else size
        yield key >> 3, message[place : place + size]
        place += size


def first_hit(vertices, faces, x, heights):
    """What a viewer far along +z sees at (x, y) for each y of a column.

    Returns:
      (face [n], -1 where nothing is hit; weights [n, 3]; depth z [n]).
    """
    near = (vertices[faces, 0].min(1) <= x) & (vertices[faces, 0].max(1) >= x)
    candidates = np.flatnonzero(near)
    a, b, c = (vertices[faces[candidates, k]] for k in range(3))
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1])
    area = area - (c[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1])
    area = np.where(np.abs(area) < 1e-14, np.inf, area)
    y = heights[:, None]
    u = (
        (x - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (y - a[:, 1])
    ) / area
    v = (
        (b[:, 0] - a[:, 0]) * (y - a[:, 1]) - (x - a[:, 0]) * (b[:, 1] - a[:, 1])
    ) / area
    inside = (u >= 0) & (v >= 0) & (u + v <= 1) & np.isfinite(area)
    z = np.where(inside, a[:, 2] + u * (b - a)[:, 2] + v * (c - a)[:, 2], -np.inf)
    best = z.argmax(1)
    rows = np.arange(len(heights))
    hit = np.where(z[rows, best] > -np.inf, candidates[best], -1)
    u, v = u[rows, best], v[rows, best]
    return hit, np.stack([1 - u - v, u, v], 1), z[rows, best]


def mouth_rims(vertices, faces, lowered, heights, columns):
    """Contact line of the closed lips: upper and lower rim.

    Args:
      vertices: [V, 3] neutral; faces: skin faces only.
      lowered: [V] how far each vertex falls when the jaw opens, metres.

    Returns:
      (upper, lower), each a list of (face, weights, point) from right to left.
    """
    upper, lower = [], []
    threshold = 0.25 * lowered.max()
    for x in columns:
        face, weights, _ = first_hit(vertices, faces, x, heights)
        fall = (lowered[faces[face]] * weights).sum(1)
        jump = np.diff(fall)
        k = int(jump.argmax())
        if jump[k] > threshold and (face[k : k + 2] >= 0).all():
            for rim, i in ((upper, k), (lower, k + 1)):
                point = weights[i] @ vertices[faces[face[i]]]
                rim.append((face[i], weights[i], point))
    return upper, lower


def eye_rims(vertices, faces, is_eye, heights, columns):
    """Edges of the eyelids: the last skin above and the first below the eyeball."""
    upper, lower = [], []
    for x in columns:
        face, weights, _ = first_hit(vertices, faces, x, heights)
        seen = np.flatnonzero(is_eye[face] & (face >= 0))
        if len(seen) < 2 or seen[0] == 0 or seen[-1] == len(face) - 1:
            continue
        for rim, i in ((upper, seen[0] - 1), (lower, seen[-1] + 1)):
            point = weights[i] @ vertices[faces[face[i]]]
            rim.append((face[i], weights[i], point))
    return upper, lower


def along(points):
    """Arc length from the first point, as shares of the whole [n]."""
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    length = np.concatenate([[0.0], np.cumsum(steps)])
    return length / length[-1]


def match_curve(canonical, rim):
    """Entries of a dense rim at the canonical curve's own arc-length shares.

    The halves are matched apart, so the middle of the curve meets the middle (x = 0
    of the curve's own extent) of the rim.
    """
    points = np.array([entry[2] for entry in rim])
    share, wanted = along(points), along(canonical)
    middle = share[np.abs(points[:, 0] - points[[0, -1], 0].mean()).argmin()]
    centre = wanted[len(wanted) // 2]
    wanted = np.interp(wanted, [0, centre, 1], [0, middle, 1])
    return [rim[np.abs(share - s).argmin()] for s in wanted]


def nearest_on_mesh(points, vertices, faces):
    """Closest face [n], weights [n, 3] and point [n, 3] of a triangle mesh."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    out = []
    for p in points:
        weights = _closest_weights(p, a, b, c)
        spot = weights[:, :1] * a + weights[:, 1:2] * b + weights[:, 2:] * c
        k = int(((spot - p) ** 2).sum(1).argmin())
        out.append((k, weights[k], spot[k]))
    return out


def _closest_weights(p, a, b, c):
    """Barycentric weights of the point of each triangle that lies closest to p."""
    ab, ac, ap = b - a, c - a, p - a
    gram = np.stack([(ab * ab).sum(1), (ab * ac).sum(1), (ac * ac).sum(1)], 1)
    d1, d2 = (ab * ap).sum(1), (ac * ap).sum(1)
    det = np.maximum(gram[:, 0] * gram[:, 2] - gram[:, 1] ** 2, 1e-20)
    u = (gram[:, 2] * d1 - gram[:, 1] * d2) / det
    v = (gram[:, 0] * d2 - gram[:, 1] * d1) / det
    weights = np.stack([1 - u - v, u, v], 1)
    outside = weights.min(1) < 0
    best = np.full(len(a), np.inf)
    corners = (a, b, c)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        edge = corners[j] - corners[i]
        t = ((p - corners[i]) * edge).sum(1) / np.maximum((edge**2).sum(1), 1e-20)
        t = np.clip(t, 0, 1)
        far = ((corners[i] + t[:, None] * edge - p) ** 2).sum(1)
        take = outside & (far < best)
        best = np.where(take, far, best)
        on_edge = np.zeros_like(weights)
        on_edge[:, i], on_edge[:, j] = 1 - t, t
        weights = np.where(take[:, None], on_edge, weights)
    return weights


def find_rims(head, vertices, faces, materials):
    """Dense rims by canonical ring: {landmark ring: [(face, weights, point)]}."""
    opened = np.zeros(mo.F, np.float32)
    opened[mo.JAW.start] = 0.2
    lowered = vertices[:, 1] - np.asarray(model.vertices(head, opened))[:, 1]
    marks = np.asarray(regions.landmarks_68(head, vertices))
    skin = np.where((materials == "skin")[:, None], faces, 0)  # a degenerate face
    span = np.ptp(marks[48:60], axis=0)
    low, high = marks[48:60].min(0), marks[48:60].max(0)
    columns = np.arange(low[0] - 0.1 * span[0], high[0] + 0.1 * span[0], COLUMN)
    heights = np.arange(high[1] + 0.005, low[1] - 0.005, -5e-5)
    rims = dict(
        zip(
            (INNER_UPPER, INNER_LOWER),
            mouth_rims(vertices, skin, lowered, heights, columns),
            strict=True,
        )
    )
    seen = np.isin(materials, ("skin", "eyes"))
    visible = np.where(seen[:, None], faces, 0)
    for rings, ibug in (
        ((RIGHT_EYE_UPPER, RIGHT_EYE_LOWER), slice(36, 42)),
        ((LEFT_EYE_UPPER, LEFT_EYE_LOWER), slice(42, 48)),
    ):
        low, high = marks[ibug].min(0), marks[ibug].max(0)
        columns = np.arange(low[0] - 0.004, high[0] + 0.004, COLUMN)
        heights = np.arange(high[1] + 0.006, low[1] - 0.006, -5e-5)
        found = eye_rims(vertices, visible, materials == "eyes", heights, columns)
        rims.update(zip(rings, found, strict=True))
    return rims, marks


def face_materials(head):
    """Material name of each face [Fc]: that of its first vertex."""
    names = np.full(len(head.v_template), "other", dtype="U8")
    for name, indices in head.groups.items():
        names[np.asarray(indices)] = name
    return names[np.asarray(head.faces)[:, 0]]


def outer_curve(marks, order, vertices, faces):
    """Dense entries along the head's own outer lip points, dropped on the skin."""
    knots = marks[list(order)]
    share = along(knots)
    dense = np.linspace(0, 1, 101)
    line = np.stack([np.interp(dense, share, knots[:, k]) for k in range(3)], 1)
    return nearest_on_mesh(line, vertices, faces)


def build(head, canonical):
    """Face [478] and weights [478, 3] of every landmark on the head.

    Args:
      canonical: [468, 3] the tracker's mesh, any unit.
    """
    vertices = np.asarray(head.v_template, np.float64)
    faces = np.asarray(head.faces)
    materials = face_materials(head)
    skin_ids = np.flatnonzero(materials == "skin")
    rims, marks = find_rims(head, vertices, faces, materials)
    fixed = {}
    for ring, rim in rims.items():
        fixed.update(zip(ring, match_curve(canonical[list(ring)], rim), strict=True))
    for ring, order in (
        (OUTER_UPPER, range(48, 55)),
        (OUTER_LOWER, (48, *range(59, 53, -1))),
    ):
        curve = outer_curve(marks, order, vertices, faces[skin_ids])
        curve = [(skin_ids[f], w, p) for f, w, p in curve]
        fixed.update(zip(ring, match_curve(canonical[list(ring)], curve), strict=True))
    anchors = {landmark: entry[2] for landmark, entry in fixed.items()}
    anchors.update({landmark: marks[ibug] for ibug, landmark in IBUG.items()})
    laid = warp(canonical, anchors, vertices, faces[skin_ids])
    entries = [
        (skin_ids[f], w, p)
        for f, w, p in nearest_on_mesh(laid, vertices, faces[skin_ids])
    ]
    for landmark, entry in fixed.items():
        entries[landmark] = entry
    fill_lip_rows(entries, vertices, faces, skin_ids)
    entries += irises(entries, vertices, faces, materials)
    return (
        np.array([e[0] for e in entries], np.int32),
        np.array([e[1] for e in entries], np.float32),
    )


def warp(canonical, anchors, vertices, skin, rounds=3):
    """Canonical mesh laid on the skin: similarity, then thin-plate warps.

    After the anchors, every landmark that lands within 15 mm of the skin becomes a soft
    anchor there, so that the smooth warp also follows cheeks and brow.
    """
    ids = list(anchors)
    target = np.array([anchors[i] for i in ids])
    scale, rotation, shift = similarity(canonical[ids], target, np.ones(len(ids)))
    rigid = scale * canonical @ rotation.T + shift
    laid = rigid + RBFInterpolator(rigid[ids], target - rigid[ids])(rigid)
    others = np.setdiff1d(np.arange(len(canonical)), ids)
    for _ in range(rounds):
        spots = np.array([e[2] for e in nearest_on_mesh(laid[others], vertices, skin)])
        close = np.linalg.norm(spots - laid[others], axis=1) < 0.015
        knots = np.concatenate([rigid[ids], rigid[others[close]]])
        shifts = np.concatenate([target, spots[close]]) - knots
        smoothing = np.concatenate(
            [np.full(len(ids), 1e-9), np.full(close.sum(), 1e-6)]
        )
        laid = rigid + RBFInterpolator(knots, shifts, smoothing=smoothing)(rigid)
    return laid


def fill_lip_rows(entries, vertices, faces, skin_ids):
    """Place the rows between outer and inner lip, each on its own lip's surface."""
    centres = vertices[faces[skin_ids]].mean(1)
    for outer, rows, inner in (
        (OUTER_UPPER, MIDDLE_UPPER, INNER_UPPER),
        (OUTER_LOWER, MIDDLE_LOWER, INNER_LOWER),
    ):
        rim = np.array([entries[i][2] for i in inner])
        sign = 1.0 if inner is INNER_UPPER else -1.0
        level = np.interp(centres[:, 0], rim[:, 0], rim[:, 1])
        own = skin_ids[sign * (centres[:, 1] - level) > 0]
        for row, share in zip(rows, (1 / 3, 2 / 3), strict=True):
            wanted = [
                (1 - share) * entries[a][2] + share * entries[b][2]
                for a, b in zip(outer, inner, strict=True)
            ]
            found = nearest_on_mesh(np.array(wanted), vertices, faces[own])
            for landmark, (face, weights, point) in zip(row, found, strict=True):
                entries[landmark] = (own[face], weights, point)


def irises(entries, vertices, faces, materials):
    """Iris centres and rims on the eyeballs: straight ahead of each ball's centre."""
    eyes = np.flatnonzero(materials == "eyes")
    found = []
    for centre_id, (inner, outer) in zip((0, 1), ((133, 33), (362, 263)), strict=True):
        side = np.sign(entries[inner][2][0])
        own = eyes[np.sign(vertices[faces[eyes]].mean(1)[:, 0]) == side]
        ball = vertices[np.unique(faces[own])]
        middle = (ball.min(0) + ball.max(0)) / 2
        width = abs(entries[outer][2][0] - entries[inner][2][0])
        offsets = np.array([[0, 0], [1, 0], [0, 1], [-1, 0], [0, -1]]) * 0.2 * width
        front = np.array([*middle[:2], ball[:, 2].max()])
        wanted = front + np.pad(offsets, ((0, 0), (0, 1)))
        assert len(IRISES[centre_id]) == len(wanted)
        for face, weights, point in nearest_on_mesh(wanted, vertices, faces[own]):
            found.append((own[face], weights, point))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", required=True, help="MediaPipe face_landmarker.task")
    parser.add_argument("--head", help="FLAME file; the shipped stand-in without it")
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    args = parser.parse_args()
    head = assets.load_head(args.head)
    canonical, _ = read_canonical(args.task)
    faces, weights = build(head, canonical)
    np.savez_compressed(
        args.out, faces=faces, weights=weights, triangles=landmarks.topology(head)
    )
    print(f"{len(faces)} landmarks on {head.name} -> {args.out}")


if __name__ == "__main__":
    main()
