"""A take as a file of another program, in the format of the path's suffix."""

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.export import gltf, live_link, skin, usd

WITH_WEIGHTS = (".csv", ".npz")
SUFFIXES = (*WITH_WEIGHTS, ".glb", ".usd", ".usda", ".usdc")


def write(path, take, head, weights=None):
    """Write a `takes.Take`.

    Args:
      path: pathlib.Path of one of `SUFFIXES`.
      head: `assets.Head` that the take moves.
      weights: [T, 52] of ARKit, of a suffix `WITH_WEIGHTS`.

    Raises:
      ValueError: values that the format cannot hold.
      ImportError: a package of the format is not installed; names the extra.
      OSError: the file cannot be written.
    """
    if path.suffix == ".csv":
        neck = take.motion[:, mo.NECK]
        path.write_text(live_link.encode(weights, neck, take.fps))
    elif path.suffix == ".npz":
        np.savez_compressed(path, **arrays_of(take, head, weights))
    else:
        moved = skin.animate(head, take.motion, take.fps, take.head_joint)
        if path.suffix == ".glb":
            path.write_bytes(gltf.encode(moved))
        else:
            usd.write(path, moved)


def arrays_of(take, head, weights):
    """The arrays of a motion file, as `toktalk_jax.sample` documents them, and more."""
    arrays = {
        "motion": take.motion,
        "fps": take.fps,
        "head_joint": take.head_joint,
        "face_model": take.face_model or head.name,
        "arkit": weights,
        "arkit_names": np.array(mo.ARKIT_52),
        **take.facts,
    }
    if take.chunk_frames is not None:
        arrays["chunk_frames"] = take.chunk_frames
    if take.audio is not None:
        samples = np.clip(np.round(take.audio * 32767), -32768, 32767)
        arrays |= {
            "audio": samples.astype(np.int16),
            "sample_rate": take.sample_rate,
        }
    return arrays
