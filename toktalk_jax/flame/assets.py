"""Heads: the shipped stand-in, or the FLAME file that the user brings.

FLAME itself is never shipped: it needs a registration with its authors. The stand-in
has FLAME's array layout, so nothing downstream can tell them apart but by name.
"""

import dataclasses
import functools
import hashlib
import importlib.resources
import pathlib
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from toktalk_jax.flame import pickles

JOINTS = 5
N_EXPRESSION = 50
_KEYS = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "weights")
_FLAME_IDENTITY, _FLAME_WIDTH = 300, 400
_MASKS = ("FLAME_masks.pkl",)
_LANDMARKS = ("landmark_embedding.npy", "flame_static_embedding.pkl")


@dataclasses.dataclass(frozen=True, eq=False)
class Marks:
    """What is named on a head's surface; compared by identity, so cheap under jit.

    Attributes:
      name: "stand_in", or the FLAME file's stem.
      groups: vertex indices [n] by material: skin, eyes, lashes, teeth, tongue.
      regions: vertex indices [n] by name: lips, upper_face, ...
      landmark_faces: [68] face of each iBUG landmark, or None.
      landmark_weights: [68, 3] barycentric weights, or None.
    """

    name: str
    groups: dict
    regions: dict
    landmark_faces: np.ndarray | None = None
    landmark_weights: np.ndarray | None = None


@struct.dataclass
class Head:
    """A head in FLAME's layout; metres, x to its own left, y up, facing +z.

    Attributes:
      v_template: [V, 3].
      faces: [Fc, 3] int32, counter-clockwise from outside.
      shape_dirs: [V, 3, n_id] identity basis; n_id is 0 for the stand-in.
      expression_dirs: [V, 3, 50]; the stand-in's first 48 follow
        `motion.ARKIT_EXPRESSION`.
      posedirs: [36, 3 V] correctives per rotation-matrix entry of joints 1 to 4.
      joint_regressor: [5, V].
      weights: [V, 5] skinning weights of root, neck, jaw, eyes.
      marks: static names.
    """

    v_template: jnp.ndarray
    faces: jnp.ndarray
    shape_dirs: jnp.ndarray
    expression_dirs: jnp.ndarray
    posedirs: jnp.ndarray
    joint_regressor: jnp.ndarray
    weights: jnp.ndarray
    marks: Marks = struct.field(pytree_node=False)

    @property
    def name(self):
        return self.marks.name

    @property
    def groups(self):
        return self.marks.groups

    @property
    def regions(self):
        return self.marks.regions

    @property
    def landmark_faces(self):
        return self.marks.landmark_faces

    @property
    def landmark_weights(self):
        return self.marks.landmark_weights

    def hash(self):
        """12 hex digits of template and expression basis: the face model's identity."""
        digest = hashlib.sha256()
        for array in (self.v_template, self.faces, self.expression_dirs):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:12]


def load_head(path=None, masks=None, landmarks=None, name=None):
    """A head from a FLAME 2020 or 2023 file, or the shipped stand-in.

    Args:
      path: FLAME pickle (chumpy is not needed), an npz of the same keys, or None for
        the stand-in.
      masks: FLAME_masks.pkl; by default the one beside `path`, if there.
      landmarks: 68-landmark embedding (DECA's landmark_embedding.npy), or FLAME's
        flame_static_embedding.pkl (51 points); by default beside `path`, if there.
      name: face-model name for metadata; by default the file's stem.

    Returns:
      `Head`.

    Raises:
      FileNotFoundError: a named file is missing.
      ValueError: a file is not what it should be; names the missing keys or shapes.
    """
    if path is None:
        if masks is not None or landmarks is not None:
            raise ValueError("masks and landmarks belong to a FLAME file; path is None")
        return _stand_in()
    path = pathlib.Path(path)
    raw = _read(path)
    head = _from_arrays(raw, path, name or path.stem)
    masks = pathlib.Path(masks) if masks else _beside(path, _MASKS)
    landmarks = pathlib.Path(landmarks) if landmarks else _beside(path, _LANDMARKS)
    marks = head.marks
    if masks is not None:
        regions, groups = _read_masks(masks, len(head.v_template))
        marks = dataclasses.replace(marks, regions=regions, groups=groups)
    if landmarks is not None:
        faces, weights = _read_landmarks(landmarks, len(head.faces))
        marks = dataclasses.replace(
            marks, landmark_faces=faces, landmark_weights=weights
        )
    return head.replace(marks=marks)


def head_of(dataset, path=""):
    """The head that a dataset's coefficients move.

    Args:
      dataset: metadata of a dataset: face_model and, where it is told, face_hash.
      path: the user's FLAME file; empty for the stand-in.

    Returns:
      `Head`.

    Raises:
      ValueError: the dataset was made for another head; says for which.
    """
    head = load_head(path or None)
    wanted = dataset["face_model"]
    if dataset.get("face_hash", head.hash()) == head.hash() and head.name == wanted:
        return head
    came = f"{path} is {head.name!r}" if path else "no head file was given"
    raise ValueError(
        f"the motion is of face model {wanted!r} ({dataset.get('face_hash')}), but "
        f"{came} ({head.hash()}); give the FLAME file that the dataset was made with"
    )


@functools.cache
def _stand_in():
    place = importlib.resources.files("toktalk_jax.flame") / "data/stand_in_head.npz"
    # Cached, so it must not hold tracers when first called inside a trace.
    with importlib.resources.as_file(place) as path, jax.ensure_compile_time_eval():
        return _from_arrays(_read(path), path, "stand_in")


def _beside(path, names):
    return next((path.with_name(n) for n in names if path.with_name(n).is_file()), None)


def _read(path):
    if not path.is_file():
        raise FileNotFoundError(f"no head file at {path}; give a FLAME pickle or npz")
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as stored:
                return dict(stored)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} cannot be read as an npz: {error}") from error
    return pickles.load_arrays(path)


def _from_arrays(raw, path, name):
    """Head of FLAME's raw arrays.

    The number of identity directions is `n_identity` where the file says so, else 300
    of FLAME's 400; the next 50 are expression.
    """
    missing = [key for key in (*_KEYS, "kintree_table") if key not in raw]
    if missing:
        raise ValueError(
            f"{path} is not a FLAME model: it lacks {missing}; "
            f"it has {sorted(raw)[:20]}"
        )
    _check_shapes(raw, path)
    directions = np.asarray(raw["shapedirs"], np.float32)
    identity = int(raw.get("n_identity", _FLAME_IDENTITY))
    posedirs = np.asarray(raw["posedirs"], np.float32)
    return Head(
        v_template=jnp.asarray(raw["v_template"], jnp.float32),
        faces=jnp.asarray(np.asarray(raw["f"]).astype(np.int32)),
        shape_dirs=jnp.asarray(directions[..., :identity]),
        expression_dirs=jnp.asarray(directions[..., identity : identity + 50]),
        posedirs=jnp.asarray(posedirs.reshape(-1, posedirs.shape[-1]).T),
        joint_regressor=jnp.asarray(raw["J_regressor"], jnp.float32),
        weights=jnp.asarray(raw["weights"], jnp.float32),
        marks=_stored_marks(raw, name, len(raw["v_template"])),
    )


def _check_shapes(raw, path):
    count = len(raw["v_template"])
    identity = int(raw.get("n_identity", _FLAME_IDENTITY))
    width = identity + N_EXPRESSION if "n_identity" in raw else _FLAME_WIDTH
    expected = {
        "v_template": (count, 3),
        "shapedirs": (count, 3, width),
        "posedirs": (count, 3, 9 * (JOINTS - 1)),
        "J_regressor": (JOINTS, count),
        "weights": (count, JOINTS),
        "kintree_table": (2, JOINTS),
    }
    wrong = {
        key: (np.shape(raw[key]), shape)
        for key, shape in expected.items()
        if np.shape(raw[key]) != shape
    }
    if wrong:
        details = "; ".join(f"{k} is {a}, not {b}" for k, (a, b) in wrong.items())
        raise ValueError(
            f"{path} is not a FLAME 2020 or 2023 model: {details}. Other body models "
            "(SMPL, SMPL-X) and BFM have other sizes"
        )
    parents = np.asarray(raw["kintree_table"])[0, 1:].astype(np.int64)
    if parents.tolist() != [0, 1, 1, 1]:
        raise ValueError(
            f"{path}: joint parents are {parents.tolist()}, not [0, 1, 1, 1]"
        )
    faces = np.asarray(raw["f"])
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.max() >= count:
        raise ValueError(
            f"{path}: faces have shape {faces.shape} and reach vertex {faces.max()}; "
            f"expected [Fc, 3] below {count}"
        )
    for key in _KEYS:
        if not np.isfinite(np.asarray(raw[key], np.float64)).all():
            raise ValueError(f"{path}: {key} holds values that are not finite")


def _stored_marks(raw, name, count):
    """Groups, regions and landmarks that an npz carries beside FLAME's arrays."""

    def named(prefix):
        keys = sorted(key for key in raw if key.startswith(prefix))
        return {key[len(prefix) :]: raw[key].astype(np.int32) for key in keys}

    groups = named("group/") or {"skin": np.arange(count, dtype=np.int32)}
    faces, weights = raw.get("landmark_faces"), raw.get("landmark_weights")
    return Marks(name, groups, named("region/"), faces, weights)


def _read_masks(path, count):
    """Regions and material groups of FLAME_masks.pkl."""
    raw = pickles.load_arrays(path)
    needed = ("lips", "forehead", "eye_region")
    missing = [key for key in needed if key not in raw]
    if missing:
        raise ValueError(f"{path} lacks the masks {missing}; it has {sorted(raw)[:20]}")
    regions = {k: np.unique(np.asarray(v)).astype(np.int32) for k, v in raw.items()}
    highest = max(int(indices.max()) for indices in regions.values() if indices.size)
    if highest >= count:
        raise ValueError(f"{path} names vertex {highest}; the head has {count}")
    regions["upper_face"] = np.union1d(regions["forehead"], regions["eye_region"])
    balls = [v for k, v in regions.items() if k.endswith("_eyeball")]
    eyes = np.unique(np.concatenate(balls)) if balls else np.zeros(0, np.int32)
    skin = np.setdiff1d(np.arange(count, dtype=np.int32), eyes)
    return regions, {"skin": skin, "eyes": eyes}


def _read_landmarks(path, face_count):
    """[68] faces and [68, 3] weights of DECA's, or of FLAME's 51-point embedding."""
    raw = pickles.load_arrays(path)
    if "full_lmk_faces_idx" in raw:
        faces = np.asarray(raw["full_lmk_faces_idx"]).reshape(-1)
        weights = np.asarray(raw["full_lmk_bary_coords"]).reshape(-1, 3)
    elif "lmk_face_idx" in raw:
        inner = np.asarray(raw["lmk_face_idx"]).reshape(-1)
        faces = np.concatenate([np.zeros(17, np.int64), inner.astype(np.int64)])
        known = np.asarray(raw["lmk_b_coords"], np.float64).reshape(-1, 3)
        weights = np.concatenate([np.full((17, 3), np.nan), known])
    else:
        raise ValueError(
            f"{path} is no landmark embedding: it has {sorted(raw)[:20]}; expected "
            "full_lmk_faces_idx (68 points) or lmk_face_idx (51)"
        )
    if faces.shape != (68,) or weights.shape != (68, 3) or faces.max() >= face_count:
        raise ValueError(
            f"{path}: landmark faces {faces.shape} up to {faces.max()}, weights "
            f"{weights.shape}; expected (68,) below {face_count} and (68, 3)"
        )
    return faces.astype(np.int32), weights.astype(np.float32)
