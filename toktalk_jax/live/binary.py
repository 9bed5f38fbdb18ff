"""Binary messages of the live protocol: input from a client, frames and sound to it."""

import dataclasses
import struct

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.data.audio import MAX_PEAK
from toktalk_jax.live.protocol import ProtocolError, columns

DTYPES = {"i16": "<i2", "f16": "<f2", "f32": "<f4"}
REST, HELD, LATE, RESTARTED = 1, 2, 4, 8
_INPUT = struct.Struct("<B3xII")
_FRAMES = struct.Struct("<BBHIIIII5d")
_SOUND = struct.Struct("<BBHIII")
PIECE_S = 0.5  # of sound in a message, at most


def decode_input(data, form):
    """(utterance, sequence, units) of a binary message.

    Returns:
      units: [L] f32 sound in [-1, 1], or [s, A] f32 tokens.

    Raises:
      ProtocolError: `bad_input`: no header, no whole units, or numbers that are none;
        anything in a session of text.
    """
    if form.kind == "text":
        raise ProtocolError("bad_input", "this session's input is text: send say")
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
    """A binary message of frames; motion [count, 56] f32, the rest as described.

    Attributes:
      arkit: [count, 52] f32 weights, where they were asked for.
    """

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
    arkit: np.ndarray | None = None

    @property
    def seconds(self):
        """Of media."""
        return len(self.motion) / mo.FPS


def encode_frames(f, outputs=("motion",)):
    """`Frames` to bytes, with the columns of the outputs agreed on."""
    count, media = len(f.motion), f.first / mo.FPS
    ids = (f.session, f.utterance, f.chunk, f.first, f.dropped)
    ledger = (f.buffered, f.tokenised, f.solved, f.sent)
    header = _FRAMES.pack(2, f.flags, count, *ids, media, *ledger)
    parts = [getattr(f, name) for name in columns(outputs) if name != "names"]
    return header + np.concatenate(parts, 1).astype("<f4").tobytes()


def decode_frames(data, outputs=("motion",)):
    """Inverse of `encode_frames`; motion that was not asked for is [count, 0]."""
    kind, flags, count, *ids, _, b, t, v, s = _FRAMES.unpack_from(data)
    if kind != 2:
        raise ValueError(f"kind {kind} of a binary message; expected 2, frames")
    values = np.frombuffer(data, "<f4", offset=_FRAMES.size).reshape(count, -1)
    of = columns(outputs)
    motion = values[:, slice(*of.get("motion", (0, 0)))]
    arkit = values[:, slice(*of["arkit"])] if "arkit" in of else None
    return Frames(motion, flags, *ids, b, t, v, s, arkit=arkit)


@dataclasses.dataclass(frozen=True, eq=False)
class Sound:
    """A binary message of a said text's sound; samples [count] i16, mono."""

    samples: np.ndarray
    utterance: int
    first: int
    rate_hz: int

    @property
    def seconds(self):
        """Of media."""
        return len(self.samples) / self.rate_hz


def pieces(wave, utterance, first, rate_hz):
    """`Sound` messages of a wave [L] f32 in [-1, 1] that begins at sample `first`."""
    samples = np.round(np.clip(wave, -1, 1) * 32767).astype(np.int16)
    size = int(PIECE_S * rate_hz)
    return [
        Sound(samples[i : i + size], utterance, first + i, rate_hz)
        for i in range(0, len(samples), size)
    ]


def encode_sound(s):
    """`Sound` to bytes."""
    header = _SOUND.pack(3, 0, 0, s.utterance, s.first, s.rate_hz)
    return header + s.samples.astype("<i2").tobytes()


def decode_sound(data):
    """Inverse of `encode_sound`."""
    kind, _, _, *ids = _SOUND.unpack_from(data)
    if kind != 3:
        raise ValueError(f"kind {kind} of a binary message; expected 3, sound")
    return Sound(np.frombuffer(data, "<i2", offset=_SOUND.size), *ids)
