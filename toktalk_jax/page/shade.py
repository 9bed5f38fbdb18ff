"""How open each vertex lies to the light: what makes mouth, nostrils and lids dark."""

import numpy as np

# 15 barycentric points per face: dense enough for 3 mm cells on a 5,000-vertex head.
_SPLIT = np.array(
    [(i / 4, j / 4, (4 - i - j) / 4) for i in range(5) for j in range(5 - i)],
    np.float32,
)


def vertex_normals(vertices, faces):
    """Unit normals [V, 3], area-weighted over the faces [Fc, 3] of each vertex."""
    corner = vertices[faces]
    flat = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    normals = np.zeros_like(vertices)
    for column in faces.T:
        np.add.at(normals, column, flat)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return normals / np.maximum(length, 1e-12)


def openness(vertices, faces, directions=64, cells=96):
    """Cosine-weighted share of directions that see each vertex (ambient occlusion).

    Each direction draws the surface into a depth map as a cloud of points; no ray is
    cast. Bias and cell are about 1.5 % of the head: a soft, low-frequency term.

    Args:
      vertices: [V, 3], any unit.
      faces: [Fc, 3], counter-clockwise from outside.

    Returns:
      [V] float32 in [0, 1].
    """
    vertices = np.asarray(vertices, np.float32)
    faces = np.asarray(faces)
    normals = vertex_normals(vertices, faces)
    points = vertices - (vertices.max(0) + vertices.min(0)) / 2
    cloud = np.einsum("fkc,sk->fsc", points[faces], _SPLIT).reshape(-1, 3)
    reach = np.linalg.norm(points, axis=1).max() * 1.01
    cell = 2 * reach / cells
    seen = np.zeros(len(vertices), np.float32)
    total = np.full(len(vertices), 1e-6, np.float32)
    for axes in _frames(directions):
        facing = np.maximum(_along(normals, axes[2:])[:, 0], 0)
        drawn, asked = _along(cloud, axes), _along(points, axes)
        depth = np.full(cells * cells, -np.inf, np.float32)
        np.maximum.at(depth, _cell_index(drawn, reach, cell, cells), drawn[:, 2])
        front = depth[_cell_index(asked, reach, cell, cells)]
        seen += facing * (asked[:, 2] > front - 1.2 * cell)
        total += facing
    return _smooth(seen / total, faces)


def _along(points, axes):
    # Not "@": a threaded BLAS spends longer waking its threads than on these products.
    return np.einsum("pc,ac->pa", points, axes)


def _cell_index(points, reach, cell, cells):
    grid = ((points[:, :2] + reach) / cell).astype(np.int32).clip(0, cells - 1)
    return grid[:, 0] * cells + grid[:, 1]


def _frames(count):
    """[count, 3, 3] right-handed axes whose third row spreads over the sphere."""
    index = np.arange(count) + 0.5
    height = 1 - 2 * index / count
    turn = np.pi * (1 + 5**0.5) * index
    ring = np.sqrt(1 - height**2)
    towards = np.stack([ring * np.cos(turn), height, ring * np.sin(turn)], 1)
    helper = np.where(np.abs(towards[:, :1]) < 0.9, [[1.0, 0, 0]], [[0, 1.0, 0]])
    across = np.cross(helper, towards)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    return np.stack([across, np.cross(towards, across), towards], 1).astype(np.float32)


def _smooth(values, faces, rounds=2):
    """Average over neighbouring vertices: takes the depth map's grain away."""
    for _ in range(rounds):
        total, count = values.copy(), np.ones_like(values)
        for a, b in ((0, 1), (1, 2), (2, 0)):
            for one, other in ((a, b), (b, a)):
                np.add.at(total, faces[:, one], values[faces[:, other]])
                np.add.at(count, faces[:, one], 1)
        values = total / count
    return values.astype(np.float32)
