"""Software renderer of heads: a NumPy z-buffer with smooth shading.

`render(head, vertices)` gives one image; the command writes a contact sheet of motion
presets, or of one motion file:

    python -m tools.render_head --out presets.png
    python -m tools.render_head --head generic_model.pkl --motion motion.npy --out m.png
"""

import argparse
import itertools

import numpy as np
from PIL import Image, ImageDraw

from toktalk_jax import motion as layout
from toktalk_jax.flame import assets, model, regions

COLOURS = {
    "skin": (0.80, 0.62, 0.53),
    "eyes": (0.93, 0.92, 0.90),
    "lashes": (0.16, 0.11, 0.09),
    "teeth": (0.93, 0.90, 0.83),
    "tongue": (0.72, 0.33, 0.33),
}
LIPS = (0.72, 0.42, 0.40)
MOUTH_INSIDE = (0.35, 0.12, 0.12)
BROWS = (0.45, 0.32, 0.26)
BACKGROUND = (0.19, 0.22, 0.26)
LIGHTS = (  # direction towards the light, strength; camera space
    ((0.35, 0.45, 0.85), 0.62),
    ((-0.75, 0.15, 0.45), 0.22),
)
AMBIENT = 0.22
DISTANCE = 1.1  # metres from camera to the middle of the head


def _view(vertices, middle, yaw, pitch):
    """Vertices [V, 3] in camera space: x to the right, y up, z to the camera."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    turn = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    cos, sin = np.cos(pitch), np.sin(pitch)
    nod = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    return (vertices - middle) @ (nod @ turn).T


def vertex_normals(vertices, faces):
    """Area-weighted unit normals [V, 3]."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    flat = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices)
    for k in range(3):
        for axis in range(3):
            normals[:, axis] += np.bincount(
                faces[:, k], flat[:, axis], minlength=len(vertices)
            )
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return normals / np.maximum(length, 1e-12)


def rasterise(screen, depth, faces, size):
    """The nearest triangle of every pixel, all candidates at once.

    Args:
      screen: [V, 2] pixel coordinates.
      depth: [V], larger is nearer.

    Returns:
      (face [size, size] int, -1 where empty; barycentric weights [size, size, 3]).
    """
    corners = screen[faces]  # [Fc, 3, 2]
    low = np.clip(np.ceil(corners.min(1) - 0.5), 0, size).astype(np.int64)
    high = np.clip(np.floor(corners.max(1) - 0.5), -1, size - 1).astype(np.int64)
    extent = np.maximum(high - low + 1, 0)
    counts = extent[:, 0] * extent[:, 1]
    triangle = np.repeat(np.arange(len(faces)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    x = low[triangle, 0] + within % extent[triangle, 0]
    y = low[triangle, 1] + within // extent[triangle, 0]
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    area = _cross(b - a, c - a)
    area = np.where(np.abs(area) < 1e-12, np.inf, area)[triangle]
    point = np.stack([x, y], 1) + 0.5
    weight_b = _cross(point - a[triangle], (c - a)[triangle]) / area
    weight_c = _cross((b - a)[triangle], point - a[triangle]) / area
    weights = np.stack([1 - weight_b - weight_c, weight_b, weight_c], 1)
    inside = (weights >= -1e-9).all(1) & np.isfinite(area)
    triangle, x, y, weights = triangle[inside], x[inside], y[inside], weights[inside]
    near = (depth[faces[triangle]] * weights).sum(1)
    order = np.argsort(near, kind="stable")  # the nearest is written last
    face = np.full(size * size, -1)
    kept = np.zeros((size * size, 3))
    pixel = (y * size + x)[order]
    face[pixel] = triangle[order]
    kept[pixel] = weights[order]
    return face.reshape(size, size), kept.reshape(size, size, 3)


def _cross(a, b):
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def vertex_colours(head):
    """[V, 3] albedo by material group and region."""
    colours = np.tile(COLOURS["skin"], (len(head.v_template), 1))
    for name, colour in COLOURS.items():
        colours[head.groups.get(name, [])] = colour
    for name, colour in (("lips", LIPS), ("mouth_inside", MOUTH_INSIDE)):
        colours[head.regions.get(name, [])] = colour
    return colours


def _shadow(head, vertices):
    """[V] light that reaches each vertex: less, the deeper it lies in the mouth."""
    light = np.ones(len(vertices))
    if "lips" in head.regions:
        inner = [head.groups.get(name, []) for name in ("teeth", "tongue")]
        inner.append(head.regions.get("mouth_inside", []))
        inner = np.concatenate(inner).astype(np.int64)
        front = vertices[head.regions["lips"], 2].max()
        depth = front - 0.014 - vertices[inner, 2]
        light[inner] = np.exp(-np.maximum(depth, 0) / 0.03)
    return light


def _paint_brows(head, rest, colour):
    """Darkens skin pixels whose rest position [n, 3] lies on the brow landmarks."""
    points = np.asarray(regions.landmarks_68(head, head.v_template), np.float64)
    gap = np.full(len(rest), np.inf)
    for line in (points[17:22], points[22:27]):
        for a, b in itertools.pairwise(line):
            along = np.clip((rest - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
            nearest = a + along[:, None] * (b - a)
            gap = np.minimum(gap, np.linalg.norm(rest - nearest, axis=1))
    share = np.clip((0.004 - gap) / 0.003, 0, 0.85)[:, None]
    return colour + share * (np.minimum(colour, BROWS) - colour)


def _iris(head, rest, colour):
    """Paints iris and pupil on eye pixels from their rest position [n, 3]."""
    joints = np.asarray(head.joint_regressor) @ np.asarray(head.v_template)
    centre = joints[3:5][np.argmin(np.abs(rest[:, :1] - joints[3:5, 0]), axis=1)]
    radius = np.linalg.norm((rest - centre)[:, :2], axis=1)
    front = rest[:, 2] > centre[:, 2]
    colour[front & (radius < 0.0062)] = (0.29, 0.38, 0.42)
    colour[front & (radius < 0.0028)] = (0.04, 0.04, 0.05)
    return colour


def project(head, vertices, size, yaw=0.0, pitch=0.0, zoom=1.0):
    """Pixel coordinates [V, 2] and camera-space vertices [V, 3] of a head.

    The camera is set by the rest head, so motion does not move it.
    """
    rest = np.asarray(head.v_template, np.float64)
    low, high = rest.min(0), rest.max(0)
    middle = (low + high) / 2
    if zoom > 1 and "lips" in head.regions:
        middle = rest[head.regions["lips"]].mean(0)
    seen = _view(np.asarray(vertices, np.float64), middle, -yaw, pitch)
    scale = size * 0.92 * zoom / (high - low)[1]
    perspective = DISTANCE / (DISTANCE - seen[:, 2:])
    return seen[:, :2] * [1, -1] * perspective * scale + size / 2, seen


def _lit(colour, normal, gloss):
    """Colours [n, 3] under the lights: diffuse, and a highlight of strength `gloss`."""
    normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    normal *= np.where(normal[:, 2:] < 0, -1, 1)  # inner sides are lit too
    light, shine = np.full(len(colour), AMBIENT), np.zeros(len(colour))
    for direction, strength in LIGHTS:
        direction = np.array(direction) / np.linalg.norm(direction)
        half = direction + [0, 0, 1]
        half /= np.linalg.norm(half)
        light += strength * np.maximum(normal @ direction, 0)
        shine += strength * np.maximum(normal @ half, 0) ** 60
    return colour * light[:, None] + (gloss * shine)[:, None]


def render(head, vertices, size=512, yaw=0.0, pitch=0.0, zoom=1.0):
    """One picture of a head.

    Args:
      head: `assets.Head`.
      vertices: [V, 3] metres.
      size: pixels of each side.
      yaw, pitch: the camera's view of the head, radians; positive yaw shows its left.
      zoom: 1 fits the rest head; above 1 the mouth is the middle.

    Returns:
      [size, size, 3] uint8.
    """
    fine = size * 2  # four samples per pixel
    faces = np.asarray(head.faces)
    # Lash cards are only lashes under a texture; without one they are thick bars.
    faces = faces[~np.isin(faces[:, 0], head.groups.get("lashes", []))]
    screen, seen = project(head, vertices, fine, yaw, pitch, zoom)
    face, weights = rasterise(screen, seen[:, 2], faces, fine)
    hit = face >= 0
    corners, weights = faces[face[hit]], weights[hit]

    def interpolate(values):
        return np.einsum("pkc,pk->pc", values[corners], weights)

    rest = interpolate(np.asarray(head.v_template, np.float64))
    colour = interpolate(vertex_colours(head) * _shadow(head, seen)[:, None])
    if head.landmark_faces is not None:
        skin = np.isin(corners[:, 0], head.groups.get("skin", []))
        colour[skin] = _paint_brows(head, rest[skin], colour[skin])
    eyes = np.isin(corners[:, 0], head.groups.get("eyes", []))
    if eyes.any():
        colour[eyes] = _iris(head, rest[eyes], colour[eyes])
    normal = interpolate(vertex_normals(seen, faces))
    picture = np.tile(np.array(BACKGROUND), (fine, fine, 1))
    picture[hit] = _lit(colour, normal, np.where(eyes, 0.45, 0.06))
    picture = picture.reshape(size, 2, size, 2, 3).mean((1, 3))
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def motion_of(jaw=(0, 0, 0), neck=(0, 0, 0), **expressions):
    """[56] motion from ARKit names (stand-in head), jaw and neck axis-angle."""
    motion = np.zeros(layout.F, np.float32)
    for name, value in expressions.items():
        motion[layout.ARKIT_EXPRESSION.index(name)] = value
    motion[layout.JAW], motion[layout.NECK] = jaw, neck
    return motion


def both(name, value=1.0):
    """Left and right shape of a name at one value."""
    return {f"{name}Left": value, f"{name}Right": value}


PRESETS = {
    "neutral": motion_of(),
    "jaw 0.1": motion_of(jaw=(0.1, 0, 0)),
    "jaw 0.25": motion_of(jaw=(0.25, 0, 0)),
    "jaw 0.36": motion_of(jaw=(0.36, 0, 0)),
    "jaw left 0.1": motion_of(jaw=(0, 0.1, 0)),
    "smile": motion_of(**both("mouthSmile")),
    "pucker": motion_of(mouthPucker=1),
    "funnel, jaw 0.15": motion_of(mouthFunnel=1, jaw=(0.15, 0, 0)),
    "eyes shut": motion_of(**both("eyeBlink")),
    "look left, brows up": motion_of(
        eyeLookOutLeft=1, eyeLookInRight=1, browInnerUp=1, **both("browOuterUp")
    ),
    "neck turn 0.4": motion_of(neck=(0, 0.4, 0)),
    "neck nod 0.3": motion_of(neck=(0.3, 0, 0)),
    "neck roll 0.3": motion_of(neck=(0, 0, 0.3)),
    "jaw 0.25 + mouthClose 0.7": motion_of(jaw=(0.25, 0, 0), mouthClose=0.7),
    "jaw 0.2 + tongueOut": motion_of(jaw=(0.2, 0, 0), tongueOut=1),
    "frown, press": motion_of(**both("mouthFrown"), **both("mouthPress")),
}


def contact_sheet(pictures, labels, columns=4):
    """One image [H, W, 3] of labelled pictures of equal size."""
    size = pictures[0].shape[0]
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * size, rows * size))
    for index, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        tile = Image.fromarray(picture)
        ImageDraw.Draw(tile).text((6, 4), label, fill=(255, 255, 255))
        sheet.paste(tile, (index % columns * size, index // columns * size))
    return sheet


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--head", help="FLAME file; default: the stand-in")
    parser.add_argument("--motion", help=".npy of [T, 56]; default: the presets")
    parser.add_argument("--every", type=int, default=10, help="frames between pictures")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--yaw", type=float, default=0.0)
    parser.add_argument("--zoom", type=float, default=1.0)
    parser.add_argument("--presets", nargs="*", help="only presets that contain these")
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    head = assets.load_head(options.head)
    if options.motion:
        frames = np.load(options.motion)[:: options.every]
        labels = [f"frame {i * options.every}" for i in range(len(frames))]
    else:
        wanted = options.presets or [""]
        labels = [n for n in PRESETS if any(w in n for w in wanted)]
        frames = np.stack([PRESETS[name] for name in labels])
    posed = np.asarray(model.vertices(head, frames))
    pictures = [
        render(head, v, options.size, options.yaw, zoom=options.zoom) for v in posed
    ]
    contact_sheet(pictures, labels).save(options.out)


if __name__ == "__main__":
    main()
