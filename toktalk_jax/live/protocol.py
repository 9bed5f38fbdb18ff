"""The wire between a client and the live server: protocol `toktalk.1`, whole.

Where: WebSocket at `/live`, sub-protocol `toktalk.1`. A browser, which can set no
header, offers its token as a second sub-protocol `token.TOKEN`; other clients may send
`Authorization: Bearer TOKEN`. Text messages are JSON objects with a "type", binary ones
are sound, tokens or frames, little-endian. Motion is in raw coefficients at 25 fps.

Client, text:
  hello      First, within `hello_s`. {"version": 1, "input": INPUT, "outputs":
             ["motion"], and any of SETTINGS; "seed": integer; "resume": key of a bye}.
  set        {any of SETTINGS}: from the next chunk on. Answered by `settings`.
  cancel     {"utterance": u, "frame": f}; without u all that was sent. Everything up
             to u is dropped, u ends, and the face eases to rest from frame f, the one
             on show; without f from the last one sent. Idempotent.
  end        Utterance is complete: its last, partial chunk is solved; then rest.
  stats      Asks for `stats`.
  bye        Closes the session.

INPUT: {"kind": "pcm", "rate_hz": 16000, "dtype": "i16" or "f32"}, mono, and, where
`ready` lists more than one, "tokenizer"; or {"kind": "tokens", "tokenizer": name,
"rate_hz": r, "dim": A, "dtype": "f16" or "f32"}, r a whole multiple of 12.5 Hz whose
stacked width the model takes.
SETTINGS: "style": a name that `ready` lists, or {"npz": base64 of an npz with motion
[R, 56]}; "style_strength": 0 to 2; "guidance": 0 to 3; "steps" n and "chunk_s" C: of
those that `ready` lists. A change of C, and of n where the solver keeps a state per
step, starts the solver anew and eases the join.

Client, binary: 12 bytes (u8 1, 3 bytes 0, u32 utterance, u32 sequence), then samples or
tokens [s, A], of `input_s` at most. Utterances count from 0; `end` and `cancel` of the
current one begin the next. The sequence counts messages of an utterance from 0. Input
of an utterance that is over is dropped in silence: it crossed a cancel on its way.

Server, text:
  ready      {"version", "session", "utterance", "expected", "model", "inputs",
             "styles", "chunk_s", "steps", "limits", "settings"}: the hello is accepted;
             input goes on with that utterance and sequence. Limits are in seconds of
             media or of time, and bytes.
  settings   {what is in force, "restarted"}, after a `set`, when it takes effect; at
             once where no utterance is going on.
  slow_down  {"queued_s"}: more input is queued than `input_s`; `go_on` when it is half
             that. Input beyond twice `input_s` is refused with error `overrun`.
  cancelled  {"utterance", "next"}: after it come no frames of utterances up to that
             but those flagged REST. `next` is the utterance to go on with.
  ended      {"utterance", "frames"}: all frames of it were sent.
  stats      {"queued_s", "chunks", "late", "held", "dropped_s", "errors"}.
  warning    {"reason": "idle" or "duration", "closes_in_s"}.
  error      {"code", "message", "fatal"} and, of code `sequence` or `overrun`,
             {"utterance", "expected"}: that message was dropped; send again from there.
             One that is not fatal leaves the session as it was; after `errors` of them
             comes a fatal `too_many_errors`.
  busy       {"reason", "retry_after_s"}, in place of ready; then close 1013.
  bye        {"reason"; "resume", "resume_s"}: then the server closes. A session cut by
             `idle` or `duration` is taken up by a hello with that key: settings,
             utterance numbers and, within an utterance, the face go on.

Server, binary: 64 bytes, then count x 56 f32 frames. u8 2; u8 flags (REST 1: eased
return, no speech; HELD 2: the solver gave no number, the last good pose is held; LATE
4; RESTARTED 8: join eased); u16 count; u32 session; u32 utterance; u32 chunk; u32 first
frame; u32 dropped, frames of this utterance left out because the client did not read;
f64 media time of the first frame, s; f64 buffered, tokenised, solved, sent: the chunk's
ledger, ms since `ready` (on a session taken up again, since its first one).
LATE: sent more than a chunk's duration after it was due, which is when its sound was
complete or, if sent ahead, would have been spoken.

Close codes: 1000 after bye; 1008 fatal error; 1009 message too long; 1011 a fault of
ours; 1012 the server stops; 1013 busy. Refused before the upgrade: 401 token, 403
origin.
"""

import base64
import dataclasses
import json

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.live import clip

VERSION = 1
SUBPROTOCOL = "toktalk.1"
OUTPUTS = ("motion",)
PCM_RATES = (8000, 16000, 22050, 24000, 32000, 44100, 48000)
NAME_CHARS = 64
_FATAL = {"version", "bad_hello", "no_hello", "too_many_errors", "internal"}


class ProtocolError(Exception):
    """A message that breaks the protocol: its code, and more fields for the wire."""

    def __init__(self, code, message, **more):
        super().__init__(message)
        self.code, self.more = code, more

    @property
    def fatal(self):
        """Whether the session ends with it."""
        return self.code in _FATAL

    def wire(self):
        """The error as a message to send."""
        fields = {"code": self.code, "message": str(self), "fatal": self.fatal}
        return fields | self.more


@dataclasses.dataclass(frozen=True)
class InputFormat:
    """What a session sends. kind "pcm" or "tokens"; stack: messages' tokens to a base
    token; width: numbers of one unit (1 for sound)."""

    kind: str
    source: str
    rate_hz: float
    dtype: str
    width: int = 1
    stack: int = 1

    @property
    def no_units(self):
        """Input of no length."""
        shape = (0,) if self.kind == "pcm" else (0, self.width)
        return np.zeros(shape, np.float32)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What may change while a session lives. style: a name, or f32 bytes of a clip."""

    style: str | bytes
    style_strength: float
    guidance: float
    steps: int
    chunk_frames: int

    def wire(self):
        """As it stands in `ready` and `settings`."""
        style = self.style if isinstance(self.style, str) else "clip"
        return {
            "style": style,
            "style_strength": self.style_strength,
            "guidance": self.guidance,
            "steps": self.steps,
            "chunk_s": self.chunk_frames / mo.FPS,
        }


@dataclasses.dataclass(frozen=True)
class Offer:
    """What a server can do; hello and set are checked against it.

    Attributes:
      sources: {tokenizer: (width of a base token, whether sound is heard)}.
      styles: names; chunk_frames, steps: sizes offered; settings: the defaults.
    """

    sources: dict
    styles: tuple
    chunk_frames: tuple
    steps: tuple
    settings: Settings

    def wire(self):
        """The part of `ready` that is the same for all sessions."""
        voice = [name for name, (_, hears) in self.sources.items() if hears]
        tokens = {name: width for name, (width, _) in self.sources.items()}
        return {
            "inputs": {
                "pcm": {"rates_hz": PCM_RATES if voice else [], "tokenizer": voice},
                "tokens": {"rate_hz": mo.TOKEN_HZ, "width": tokens},
            },
            "styles": list(self.styles),
            "chunk_s": [c / mo.FPS for c in self.chunk_frames],
            "steps": list(self.steps),
        }


def parse(text):
    """A JSON object with a "type".

    Raises:
      ProtocolError: `bad_message`.
    """
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("bad_message", f"not JSON ({str(error)[:80]})") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ProtocolError("bad_message", 'expected a JSON object with a "type"')
    return message


def hello(message, offer):
    """(InputFormat, seed, key to resume or "") of a hello; `settings` reads the rest.

    Raises:
      ProtocolError: `version` or `bad_hello`, both fatal.
    """
    if message["type"] != "hello":
        raise ProtocolError("no_hello", "the first message must be hello")
    if message.get("version") != VERSION:
        raise ProtocolError("version", f"expected version {VERSION}")
    known = {"type", "version", "input", "outputs", "seed", "resume", *_SETTERS}
    try:
        _no_others(message, known)
        outputs = message.get("outputs", list(OUTPUTS))
        if not isinstance(outputs, list) or [x for x in outputs if x not in OUTPUTS]:
            raise ProtocolError("bad_hello", f"outputs: expected some of {OUTPUTS}")
        seed = message.get("seed", 0)
        if type(seed) is not int or not 0 <= seed < 2**32:
            raise ProtocolError("bad_hello", "seed: expected an integer of 32 bits")
        resume = message.get("resume", "")
        if not isinstance(resume, str) or len(resume) > NAME_CHARS:
            raise ProtocolError("bad_hello", "resume: expected the key of a bye")
        return _input_format(message.get("input"), offer), seed, resume
    except ProtocolError as error:
        raise ProtocolError("bad_hello", str(error)) from None


def _input_format(raw, offer):
    if not isinstance(raw, dict) or raw.get("kind") not in ("pcm", "tokens"):
        raise ProtocolError("bad_hello", 'input: expected kind "pcm" or "tokens"')
    rate, dtype = raw.get("rate_hz"), raw.get("dtype")
    if raw["kind"] == "pcm":
        _no_others(raw, {"kind", "rate_hz", "dtype", "tokenizer"})
        hears = [name for name, (_, voice) in offer.sources.items() if voice]
        if not hears:
            raise ProtocolError("bad_hello", "this server hears no sound; send tokens")
        name = raw.get("tokenizer", hears[0])
        if rate not in PCM_RATES or dtype not in ("i16", "f32") or name not in hears:
            raise ProtocolError(
                "bad_hello",
                f"pcm: expected rate_hz of {PCM_RATES}, dtype i16 or f32, tokenizer of "
                f"{hears}",
            )
        return InputFormat("pcm", name, float(rate), dtype)
    _no_others(raw, {"kind", "rate_hz", "dtype", "dim", "tokenizer"})
    name, dim = raw.get("tokenizer"), raw.get("dim")
    if not isinstance(name, str) or name not in offer.sources:
        raise ProtocolError(
            "bad_hello", f"tokenizer: expected one of {list(offer.sources)}"
        )
    width = offer.sources[name][0]
    stack = rate / mo.TOKEN_HZ if _number(rate) and rate > 0 else 0.5
    fits = type(dim) is int and stack == round(stack) and dim * stack == width
    if not fits or dtype not in ("f16", "f32"):
        raise ProtocolError(
            "bad_hello",
            f"tokens of {name}: expected f16 or f32, {width} wide at 12.5 Hz, or k "
            "times the rate at a k-th of the width",
        )
    return InputFormat("tokens", name, float(rate), dtype, dim, round(stack))


def settings(message, before, offer):
    """`Settings` before with what a hello or set changes.

    Raises:
      ProtocolError: `bad_settings`; names the field.
    """
    changes = {}
    for name, setter in _SETTERS.items():
        if name in message:
            changes |= setter(message[name], offer)
    return dataclasses.replace(before, **changes)


def change(message, before, offer):
    """`Settings` after a set message; as `settings`, other fields refused."""
    _no_others(message, {"type", *_SETTERS})
    return settings(message, before, offer)


def _style(value, offer):
    if isinstance(value, str) and value in offer.styles:
        return {"style": value}
    if isinstance(value, dict) and isinstance(value.get("npz"), str):
        try:
            motion = clip.read(base64.b64decode(value["npz"], validate=True))
        except ValueError as error:  # base64's own is one
            raise ProtocolError("bad_settings", f"style: {error}") from None
        return {"style": motion.tobytes()}
    raise ProtocolError(
        "bad_settings", f"style: expected one of {list(offer.styles)} or an npz"
    )


def _within(name, high):
    def setter(value, offer):
        if not _number(value) or not 0 <= value <= high:
            raise ProtocolError("bad_settings", f"{name}: expected 0 to {high}")
        return {name: float(value)}

    return setter


def _steps(value, offer):
    if type(value) is not int or value not in offer.steps:
        raise ProtocolError("bad_settings", f"steps: expected one of {offer.steps}")
    return {"steps": value}


def _chunk(value, offer):
    wanted = value * mo.FPS if _number(value) else 0
    frames = [c for c in offer.chunk_frames if abs(c - wanted) < 1e-6]
    if not frames:
        sizes = [c / mo.FPS for c in offer.chunk_frames]
        raise ProtocolError("bad_settings", f"chunk_s: expected one of {sizes}")
    return {"chunk_frames": frames[0]}


_SETTERS = {
    "style": _style,
    "style_strength": _within("style_strength", 2.0),
    "guidance": _within("guidance", 3.0),
    "steps": _steps,
    "chunk_s": _chunk,
}


def cancel(message):
    """(utterance or None, frame on show or None) of a cancel.

    Raises:
      ProtocolError: `bad_message`.
    """
    _no_others(message, {"type", "utterance", "frame"})
    values = message.get("utterance"), message.get("frame")
    for value in values:
        if value is not None and (type(value) is not int or not 0 <= value < 2**32):
            raise ProtocolError("bad_message", "cancel: expected counts from 0")
    return values


def encode(kind, fields):
    """A text message."""
    return json.dumps({"type": kind} | fields, allow_nan=False)


def _number(value):
    # Compared first: an integer of a thousand digits is no float.
    return type(value) in (int, float) and -1e9 < value < 1e9


def _no_others(message, known):
    unknown = [str(key)[:NAME_CHARS] for key in message if key not in known]
    if unknown:
        raise ProtocolError("bad_message", f"unknown fields {unknown[:4]}")
