"""Binary messages of the live protocol: input from a client, frames to it."""

import dataclasses
import struct

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.data.audio import MAX_PEAK
from toktalk_jax.live.protocol import ProtocolError

DTYPES = {"i16": "<i2", "f16": "<f2", "f32": "<f4"}
REST, HELD, LATE, RESTARTED = 1, 2, 4, 8
_INPUT = struct.Struct("<B3xII")
_FRAMES = struct.Struct("<BBHIIIII5d")


def decode_input(data, form):
    """(utterance, sequence, units) of a binary message.

    Returns:
      units: [L] f32 sound in [-1, 1], or [s, A] f32 tokens.

    Raises:
      ProtocolError: `bad_input`: no header, no whole units, or numbers that are none.
    """
    if len(data) < _INPUT.size or data[:4] != b"\1\0\0\0":
        raise ProtocolError("bad_input", "expected a header of 12 bytes, first 1 0 0 0")
    _, utterance, sequence = _INPUT.unpack_from(data)
    dtype, payload = np.dtype(DTYPES[form.dtype]), data[_INPUT.size :]
    if len(payload) % (dtype.itemsize * form.width):
        raise ProtocolError(
            "bad_input", f"{len(payload)} bytes are no whole {form.dtype} units"
        )
    units = np.frombuffer(payload, dtype).astype(np.float32)
    if not np.isfinite(units).all():
        raise ProtocolError("bad_input", "NaN or Inf in the input")
    if form.kind == "tokens":
        return utterance, sequence, units.reshape(-1, form.width)
    if form.dtype == "i16":
        return utterance, sequence, units / 32768
    if len(units) and np.abs(units).max() > MAX_PEAK:
        raise ProtocolError("bad_input", "float sound is in [-1, 1]")
    return utterance, sequence, units


def encode_input(utterance, sequence, units):
    """Inverse of `decode_input`; units: an array of the dtype declared."""
    return _INPUT.pack(1, utterance, sequence) + np.ascontiguousarray(units).tobytes()


@dataclasses.dataclass(frozen=True, eq=False)
class Frames:
    """A binary message of frames; motion [count, 56] f32, the rest as described."""

    motion: np.ndarray
    flags: int
    session: int
    utterance: int
    chunk: int
    first: int
    dropped: int = 0
    buffered: float = 0.0
    tokenised: float = 0.0
    solved: float = 0.0
    sent: float = 0.0
    deadline: float = float("inf")  # ms since ready; not on the wire

    @property
    def seconds(self):
        """Of media."""
        return len(self.motion) / mo.FPS


def encode_frames(f):
    """`Frames` to bytes."""
    count, media = len(f.motion), f.first / mo.FPS
    ids = (f.session, f.utterance, f.chunk, f.first, f.dropped)
    ledger = (f.buffered, f.tokenised, f.solved, f.sent)
    header = _FRAMES.pack(2, f.flags, count, *ids, media, *ledger)
    return header + np.ascontiguousarray(f.motion, "<f4").tobytes()


def decode_frames(data):
    """Inverse of `encode_frames`."""
    kind, flags, count, *ids, _, b, t, v, s = _FRAMES.unpack_from(data)
    motion = np.frombuffer(data, "<f4", offset=_FRAMES.size).reshape(count, mo.F)
    if kind != 2:
        raise ValueError(f"kind {kind} of a binary message; expected 2, frames")
    return Frames(motion, flags, *ids, b, t, v, s)
