r"""A motion file in another program's format, by the suffix of --out.

    python -m tools.export_motion out/motion.npz --out take.glb
    python -m tools.export_motion out --out take.csv --head FLAME.pkl \
        --landmark_map map.npz
    python -m tools.export_motion MySlate_1_iPhone.csv --out style.npz

The motion is a file of `toktalk_jax.sample` or its folder, or a CSV that Live Link Face
recorded (any of ARKit's 52 shapes by name), which becomes motion of the head at 25 fps.

.csv            ARKit-52 weights and head turn, as Live Link Face writes them
.glb            glTF 2.0: head, named morph targets, joints, skin, animation
.usd .usda .usdc  UsdSkel: the same, one time code a frame
.mp4            the head as a film with its sound, or that of --wav
.npz            a motion file again, with `arkit` [T, 52] and `arkit_names`

A FLAME head's ARKit weights need its landmark map (`tools.build_landmark_map`); they
are fitted to the stand-in's shapes carried over, or to your own with --basis: an npz
with an array [V, 3] of displacements in metres by ARKit name.
"""

import argparse
import os
import pathlib
import time

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax import takes
from toktalk_jax.data import audio as sound
from toktalk_jax.data.corpora import coefficients
from toktalk_jax.export import live_link, write
from toktalk_jax.export.write import WITH_WEIGHTS
from toktalk_jax.flame import arkit, arkit_shapes, assets, landmarks

SUFFIXES = (*write.SUFFIXES, ".mp4")
WITH_SOUND = (".mp4", ".npz")


def export(
    motion, out, *, head="", landmark_map="", basis="", wav="", size=480, log=print
):
    """Write one motion in the format of `out`'s suffix; it appears only when complete.

    Args:
      motion: motion.npz, its folder, or a Live Link Face CSV.
      head, landmark_map, basis: files; empty for the stand-in.
      wav: sound in place of the motion file's own.
      size: pixels of an mp4, even.

    Returns:
      The path written.

    Raises:
      ValueError, FileNotFoundError: inputs that cannot be exported; says why.
      ImportError: a package of the format is not installed; names the extra.
    """
    out = pathlib.Path(out)
    suffix = out.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{out} ends in {suffix!r}; expected one of {SUFFIXES}")
    if wav and suffix not in WITH_SOUND:
        raise ValueError(f"{suffix} holds no sound; --wav goes with {WITH_SOUND}")
    captured = pathlib.Path(motion).suffix.lower() == ".csv"
    take = None if captured else takes.read(motion)
    model = pick_head(take, head)
    rig = None
    if captured or suffix in WITH_WEIGHTS:
        laid = landmarks.load_map(model, landmark_map or None)
        shapes = arkit_shapes.load_basis(basis, model) if basis else None
        rig = arkit.prepare(model, laid, shapes)
    take = read_capture(motion, rig, model) if captured else take
    if wav:
        take = take._replace(audio=sound.read_audio(wav), sample_rate=mo.SAMPLE_RATE)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.stem}.{os.getpid()}{suffix}")
    try:
        if suffix == ".mp4":
            film(partial, take, model, size)
        else:
            wanted = suffix in WITH_WEIGHTS
            weights = weights_of(take, rig, log) if wanted else None
            write.write(partial, take, model, weights)
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    log(f"{out}: {len(take.motion)} frames at {take.fps:g} fps")
    return out


def pick_head(take, path):
    """The head that a take moves; another one is refused by name."""
    if take is None or take.face_model is None:
        return assets.load_head(path or None)
    return assets.head_of({"face_model": take.face_model}, path)


def read_capture(path, rig, head):
    """`takes.Take` of a Live Link Face CSV, at 25 fps."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no Live Link Face CSV at {path}")
    try:
        weights, neck, fps = live_link.decode(path.read_text("utf-8-sig"))
        weights, neck = (coefficients.resample(x, fps) for x in (weights, neck))
        motion = arkit.from_arkit(rig, weights.clip(0, 1), neck)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return takes.Take(motion, mo.FPS, "neck", head.name, None, None, mo.SAMPLE_RATE, {})


def weights_of(take, rig, log):
    """[T, 52] of ARKit, timed."""
    arkit.to_arkit(rig, take.motion)  # compiles before the clock
    begin = time.perf_counter()
    weights = arkit.to_arkit(rig, take.motion)
    each = (time.perf_counter() - begin) * 1e3 / len(weights)
    log(f"ARKit weights: {each:.3f} ms a frame")
    return weights


def film(path, take, head, size):
    """The head as an mp4 at 25 fps; silent where there is no sound."""
    from tools import compare_video

    compare_video.check_size(size)
    motion = coefficients.resample(take.motion, take.fps)
    heads = compare_video.draw_heads(motion[None], head, take.head_joint, size)
    silence = np.zeros(mo.SAMPLES_PER_FRAME, np.float32)
    audio = silence if take.audio is None else take.audio
    pictures = (picture for (picture,) in heads)
    compare_video.encode(path, pictures, len(motion), audio, take.sample_rate)


def main(arguments=None):
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("motion", help="motion.npz, its folder, or a Live Link CSV")
    parser.add_argument("--out", required=True, help="file; its suffix is the format")
    parser.add_argument("--head", default="", help="FLAME file; default: the stand-in")
    parser.add_argument("--landmark_map", default="", help="of that head; .csv, .npz")
    parser.add_argument("--basis", default="", help="its ARKit shapes; .csv, .npz")
    parser.add_argument("--wav", default="", help="sound of an .mp4 or .npz")
    parser.add_argument("--size", type=int, default=480, help="pixels of an .mp4")
    options = vars(parser.parse_args(arguments))
    try:
        export(options.pop("motion"), options.pop("out"), **options)
    except (ValueError, OSError, ImportError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
