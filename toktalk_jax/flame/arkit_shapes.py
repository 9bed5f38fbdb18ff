"""How a head's surface moves under ARKit's shapes and under its own coefficients."""

import functools
import importlib.resources
import pathlib
import zipfile

import jax
import jax.numpy as jnp
import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.flame import fit, model
from toktalk_jax.flame.assets import load_head
from toktalk_jax.flame.landmarks import carry, load_map, surface_points

# jawOpen, jawLeft, jawRight in `motion.ARKIT_52`.
JAW_SHAPES = tuple(mo.ARKIT_52.index(f"jaw{way}") for way in ("Open", "Left", "Right"))
VERTEX_WEIGHT = 0.05  # of a vertex, where shapes are known there; a cheek mark has 0.3
ROLL = 0.05  # radians, where the roll of the jaw is measured


def rows(head, landmark_map=None, basis=None):
    """Weighted displacements, millimetres: what both directions bring together.

    Landmarks weigh as in `fit`: lips lead, and how far they part counts by itself, so
    that closed lips stay closed. Vertices follow where the shapes are known on them.

    Args:
      head, landmark_map, basis: as `arkit.prepare`.

    Returns:
      Of whole ARKit shapes [n, 52]; of expression units and radians of jaw [n, 53].
    """
    landmark_map = load_map(head) if landmark_map is None else landmark_map
    place = functools.partial(surface_points, head, landmark_map)
    if basis is None and head.name == "stand_in":
        angles, basis = stand_in_jaw(), _stand_in_shapes()
        seen = np.asarray(place(basis))
    elif basis is None:
        seen = _carried(np.asarray(place(head.v_template)))
        angles = _jaw_angles(head, place, seen)
        seen[list(JAW_SHAPES)] = place(_jaw_shapes(head, *angles))
    else:
        if np.shape(basis) != (52, len(head.v_template), 3):
            raise ValueError(
                f"the basis is {np.shape(basis)}; head {head.name!r} needs "
                f"(52, {len(head.v_template)}, 3)"
            )
        seen = np.asarray(place(basis))
        angles = _jaw_angles(head, place, seen)
    units = _units(head, *angles)
    if basis is None:
        return _weighted(seen), _weighted(place(units))
    return _weighted(seen, basis), _weighted(place(units), units)


def _weighted(at_marks, at_vertices=None):
    """Rows [n, k] in millimetres of k displacements at landmarks, and at vertices."""
    at_marks = jnp.moveaxis(jnp.asarray(at_marks), 0, -1)
    found = fit.weighted_rows(at_marks, jnp.asarray(fit.default_weights()))
    found = 1e3 * np.asarray(found, np.float64).reshape(-1, at_marks.shape[-1])
    if at_vertices is None:
        return found
    dense = 1e3 * np.reshape(at_vertices, (len(at_vertices), -1)).T
    return np.concatenate([found, np.sqrt(VERTEX_WEIGHT) * dense])


@jax.jit
def _moved(head, motion):
    return model.vertices(head, motion, pose=False) - head.v_template[None]


def _jaws(turns):
    """[n, 56] motions of jaw turns [n, 3], radians."""
    motion = np.zeros((len(turns), mo.F), np.float32)
    motion[:, mo.JAW] = turns
    return motion


def _turned(head, wide, side):
    """[3, V, 3] displacements: jaw open, to the left, rolled by `ROLL`.

    Of the sideways turns only what changes sign with them: what they share, a slight
    way back, would else be fitted by both sides at once.
    """
    turns = [[wide, 0, 0], [0, side, 0], [0, -side, 0], [0, 0, ROLL], [0, 0, -ROLL]]
    opened, left, right, roll, back = np.asarray(_moved(head, _jaws(turns)))
    return np.stack([opened, (left - right) / 2, (roll - back) / 2])


def _jaw_shapes(head, wide, side):
    """[3, V, 3] displacements of jawOpen, jawLeft and jawRight."""
    opened, left, _ = _turned(head, wide, side)
    return np.stack([opened, left, -left])


def _units(head, wide, side):
    """[53, V, 3] displacements of units of expression and of radians of jaw."""
    jaw = _turned(head, wide, side) / np.array([wide, side, ROLL])[:, None, None]
    return np.concatenate([np.moveaxis(np.asarray(head.expression_dirs), -1, 0), jaw])


def _stand_in_shapes():
    """[52, V, 3] the stand-in's own; jawForward does not move."""
    head = load_head()
    shapes = np.zeros((52, *head.v_template.shape), np.float32)
    named = [mo.ARKIT_52.index(name) for name in mo.ARKIT_EXPRESSION]
    dirs = np.asarray(head.expression_dirs)[..., : len(named)]
    shapes[named] = np.moveaxis(dirs, -1, 0)
    shapes[list(JAW_SHAPES)] = _jaw_shapes(head, *stand_in_jaw())
    return shapes


def _carried(rest):
    """[52, 478, 3] the stand-in's shapes on a head with landmarks `rest` [478, 3]."""
    stand_in = load_head()
    place = functools.partial(surface_points, stand_in, load_map(stand_in))
    neutral = np.asarray(place(stand_in.v_template))
    return carry(neutral + np.asarray(place(_stand_in_shapes())), neutral, rest) - rest


def _jaw_angles(head, place, seen):
    """Radians of jawOpen and of jawLeft: the turns nearest to them at the landmarks."""
    weights = fit.default_weights()[:, None]
    found = []
    for axis, shape, most in ((0, JAW_SHAPES[0], 0.6), (1, JAW_SHAPES[1], 0.3)):
        angles = np.linspace(0, most, 101)[1:]
        moved = place(_moved(head, _jaws(angles[:, None] * np.eye(3)[axis])))
        error = (weights * (np.asarray(moved) - seen[shape]) ** 2).sum((1, 2))
        found.append(float(angles[error.argmin()]))
    return found


def load_basis(path, head):
    """The user's ARKit shapes of a head: an npz, an array [V, 3] a shape, by name.

    Displacements from rest at weight 1, in metres and in the head's own frame. A shape
    that the file lacks does not move.

    Returns:
      [52, V, 3].

    Raises:
      FileNotFoundError: no such file.
      ValueError: no npz, a name that is not ARKit's, or another shape.
    """
    path, size = pathlib.Path(path), (len(head.v_template), 3)
    if not path.is_file():
        raise FileNotFoundError(f"no ARKit basis at {path}")
    try:
        with np.load(path, allow_pickle=False) as stored:
            shapes = dict(stored)
    except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a whole .npz file ({error})") from None
    unknown = sorted(shapes.keys() - set(mo.ARKIT_52))
    if unknown or not shapes:
        raise ValueError(
            f"{path} holds {unknown or 'nothing'}; expected ARKit's names, "
            f"such as {mo.ARKIT_52[17]!r}, each an array {size}"
        )
    for name, shape in shapes.items():
        if shape.shape != size or not np.isfinite(shape).all():
            raise ValueError(f"{path}: {name} is {shape.shape}; expected finite {size}")
    return np.stack([shapes.get(name, np.zeros(size)) for name in mo.ARKIT_52])


@functools.cache
def stand_in_jaw():
    """(angle of jawOpen, angle of jawLeft and jawRight), radians, of the stand-in."""
    place = importlib.resources.files("toktalk_jax.flame") / "data/stand_in_head.npz"
    with place.open("rb") as file, np.load(file) as head:
        return float(head["jaw_open_angle"]), float(head["jaw_side_angle"])
