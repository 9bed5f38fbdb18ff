"""Arrays to one deflated base64 text and back: the data block of the page.

Fixed-point arrays are stored as byte planes (all low bytes, then all high bytes), which
deflate shrinks far better than interleaved ones.
"""

import base64
import math
import zlib

import numpy as np

_HIGHEST = 32767  # of int16


def pack(arrays, steps):
    """Pack arrays for the page's reader (`source/src/data.js`).

    Args:
      arrays: name -> array; float32, uint8 or uint32 (any integer becomes uint32).
      steps: name -> step of the fixed-point int16 that a float array is rounded to. The
        step grows where the array's range asks for it. Arrays without a step are exact.

    Returns:
      {"arrays": [{name, shape, type, step}], "body": base64 text}.

    Raises:
      ValueError: an array holds values that are not finite.
    """
    specs, parts = [], []
    for name, array in arrays.items():
        array = np.asarray(array)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{name} holds {np.sum(~np.isfinite(array))} NaN or Inf")
        kind, step, data = _encode(array, steps.get(name))
        specs.append({"name": name, "shape": array.shape, "type": kind, "step": step})
        parts.append(data)
    body = base64.b64encode(zlib.compress(b"".join(parts), 9)).decode("ascii")
    return {"arrays": specs, "body": body}


def unpack(block):
    """Inverse of `pack`: name -> array, fixed-point ones rounded to their step.

    Raises:
      ValueError: the block is cut short or damaged.
    """
    try:
        data = zlib.decompress(base64.b64decode(block["body"], validate=True))
    except (ValueError, zlib.error) as error:
        raise ValueError(f"the page's data block is damaged: {error}") from error
    arrays, start = {}, 0
    for spec in block["arrays"]:
        count = math.prod(spec["shape"])
        size = count * {"f32": 4, "u32": 4, "u8": 1, "q16": 2}[spec["type"]]
        if start + size > len(data):
            raise ValueError(f"the page's data block ends inside {spec['name']}")
        piece = np.frombuffer(data, np.uint8, size, start)
        arrays[spec["name"]] = _decode(piece, spec).reshape(spec["shape"])
        start += size
    return arrays


def _encode(array, step):
    if array.dtype == np.uint8:
        return "u8", 0, array.tobytes()
    if array.dtype.kind in "iu":
        return "u32", 0, array.astype("<u4").tobytes()
    if step is None:
        return "f32", 0, array.astype("<f4").tobytes()
    step = max(float(step), float(np.abs(array).max(initial=0)) / _HIGHEST)
    fixed = np.round(array.astype(np.float64) / step).astype("<i2").reshape(-1)
    return "q16", step, fixed.view(np.uint8).reshape(-1, 2).T.tobytes()


def _decode(piece, spec):
    if spec["type"] == "q16":
        fixed = np.ascontiguousarray(piece.reshape(2, -1).T).view("<i2").reshape(-1)
        return (fixed * spec["step"]).astype(np.float32)
    return piece.view({"f32": "<f4", "u32": "<u4", "u8": "u1"}[spec["type"]])
