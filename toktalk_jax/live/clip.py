"""Style clips that strangers upload: an npz, read without trust."""

import io
import math
import zipfile

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.inputs import MIN_STYLE_FRAMES

MAX_FRAMES = 250  # 10 s; the encoder is compiled once, for this length
MOST = 2 * math.pi * 10  # of a coefficient; no face takes more
_MAX_HEADER = 4096
_MAX_FILES, _ENTRY = 64, b"PK\x01\x02"  # of a zip's directory, a mark for each file


def read(data):
    """[R, 56] f32 raw motion of the bytes of a style .npz; R from 10 to 250.

    Nothing is unpacked before its size is known, and nothing is unpickled. Of a longer
    clip the first 10 s are taken.

    Raises:
      ValueError: says what is wrong with it.
    """
    # Before the directory is read: a long one would hold up everybody's frames.
    if data.count(_ENTRY) > _MAX_FILES:
        raise ValueError(f"the npz holds more than {_MAX_FILES} files")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _motion(archive)
    except ValueError:
        raise
    except Exception as error:  # a stranger's bytes: of zip, zlib, npy, tokenize, ...
        raise ValueError(f"not a whole .npz file ({str(error)[:80]})") from None


def _motion(archive):
    if "motion.npy" not in archive.namelist():
        raise ValueError("the npz has no 'motion'")
    with archive.open("motion.npy") as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"motion is of npy version {version}; expected 1.0")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file, _MAX_HEADER)
        if dtype not in (np.float32, np.float64) or fortran:
            raise ValueError(f"motion is {dtype}; expected float32 in C order")
        if len(shape) != 2 or shape[1] != mo.F or shape[0] < MIN_STYLE_FRAMES:
            raise ValueError(
                f"motion is {shape}; expected [R, {mo.F}], R at least "
                f"{MIN_STYLE_FRAMES}"
            )
        frames = min(shape[0], MAX_FRAMES)
        size = frames * mo.F * dtype.itemsize
        raw = file.read(size)
    if len(raw) < size:
        raise ValueError(f"motion ends after {len(raw)} bytes of {size}")
    motion = np.frombuffer(raw, dtype).astype(np.float32).reshape(frames, mo.F)
    if not np.isfinite(motion).all() or np.abs(motion).max() > MOST:
        raise ValueError("motion holds NaN, Inf or values that no face takes")
    return motion
