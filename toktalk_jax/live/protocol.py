"""The wire between a client and the live server: protocol `toktalk.1`, whole.

Where: WebSocket at `/live`, sub-protocol `toktalk.1`. A browser, which can set no
header, offers its token as a second sub-protocol `token.TOKEN`; other clients may send
`Authorization: Bearer TOKEN`. Text messages are JSON objects with a "type", binary ones
are sound, tokens or frames, little-endian. Motion is in raw coefficients at 25 fps.

Client, text:
  hello      First, within `hello_s`. {"version": 1, "input": INPUT, "outputs": some
             of those that `ready` lists, ["motion"] if left out, and any of SETTINGS;
             "seed": integer; "resume": key of a bye}.
  say        {"text": 1 to 500 characters}, input of kind "text" only: more of the
             current utterance, spoken sentence by sentence.
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
stacked width the model takes; or {"kind": "text"}, where `ready` says that the server
speaks: its text-to-speech model's states drive the face while their sound is made.
SETTINGS: "style": a name that `ready` lists, or {"npz": base64 of an npz with motion
[R, 56]}; "style_strength": 0 to 2; "guidance": 0 to 3; "steps" n and "chunk_s" C: of
those that `ready` lists. A change of C, and of n where the solver keeps a state per
step, starts the solver anew and eases the join.

Client, binary: 12 bytes (u8 1, 3 bytes 0, u32 utterance, u32 sequence), then samples or
tokens [s, A], of `input_s` at most. Utterances count from 0; `end` and `cancel` of the
current one begin the next. The sequence counts messages of an utterance from 0. Input
of an utterance that is over is dropped in silence: it crossed a cancel on its way. A
session of text sends none.

Server, text:
  ready      {"version", "session", "utterance", "expected", "model", "inputs",
             "outputs", "styles", "chunk_s", "steps", "limits", "columns", "settings"}:
             the hello is accepted; input goes on with that utterance and sequence.
             Limits are in seconds of media or of time, bytes, and characters. Columns:
             of the outputs agreed on where they begin and end in a frame, such as
             {"motion": [0, 56], "arkit": [56, 108], "names": ARKit's 52}.
  settings   {what is in force, "restarted"}, after a `set`, when it takes effect: at
             once where no utterance is going on, when that is over at the latest.
  slow_down  {"queued_s"}: more input is queued than `input_s`; `go_on` when it is half
             that. Input beyond twice `input_s` is refused with error `overrun`.
             Of text at most `text_chars` wait to be spoken; more is refused with error
             `overrun`, and `go_on` {"queued_chars"} comes when half that wait.
  said       {"utterance", "ttftb_ms", "audio_ms", "animation_ms", "first_frame_ms",
             "seconds"}: once an utterance of text, as soon as all four are known: from
             the say's arrival to the states of its first sentence; from there to its
             first sound, and to its first chunk, ready to send; from the arrival to the
             first frame sent. Seconds: of media whose states are there by then.
  cancelled  {"utterance", "next"}: after it come no sound and no frames of utterances
             up to that, but those flagged REST. `next` is the one to go on with.
  ended      {"utterance", "frames"}: all frames of it were sent; of text also all
             sound, and {"seconds"} of it.
  stats      {"queued_s" or "queued_chars", "chunks", "late", "held", "dropped_s",
             "errors"}.
  warning    {"reason": "idle" or "duration", "closes_in_s"}.
  error      {"code", "message", "fatal"} and, of code `sequence` or `overrun`,
             {"utterance", "expected"}: that message was dropped; send again from there.
             One that is not fatal leaves the session as it was; after `errors` of them
             comes a fatal `too_many_errors`.
  busy       {"reason", "retry_after_s"}, in place of ready; then close 1013.
  bye        {"reason"; "resume", "resume_s"}: then the server closes. A session cut by
             `idle` or `duration` is taken up by a hello with that key: settings,
             utterance numbers and, within an utterance, the face go on.

Server, binary, frames: 64 bytes, then count x columns f32: raw coefficients, weights of
ARKit's 52 shapes in [0, 1], or both, as agreed. u8 2; u8 flags (REST 1: eased
return, no speech; HELD 2: the solver gave no number, the last good pose is held; LATE
4; RESTARTED 8: join eased); u16 count; u32 session; u32 utterance; u32 chunk; u32 first
frame; u32 dropped, frames of this utterance left out because the client did not read;
f64 media time of the first frame, s; f64 buffered, tokenised, solved, sent: the chunk's
ledger, ms since `ready` (on a session taken up again, since its first one).
LATE: sent more than a chunk's duration after it was due, which is when its sound was
complete or, if sent ahead, would have been spoken.

Server, binary, sound of text: 16 bytes, then i16 mono samples, 0.5 s at most. u8 3; u8
0; u16 0; u32 utterance; u32 first sample, counted in the utterance; u32 rate_hz. Sample
n is heard n / rate_hz s into the utterance, frame k shown k / 25 s into it; sound ends
up to 80 ms after the last frame of speech. Both come ahead of their time, `ahead_s` at
most: play them by their numbers. Of either what waits longer than `output_s` because
the client does not read is left out, the oldest first.

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
OUTPUTS = {"motion": mo.F, "arkit": len(mo.ARKIT_52)}  # columns of each, in order
PCM_RATES = (8000, 16000, 22050, 24000, 32000, 44100, 48000)
NAME_CHARS, TEXT_CHARS = 64, 500
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
    """What a session sends. kind "pcm", "tokens" or "text" (the units are the states of
    its sentences); stack: messages' tokens to a base token; width: numbers of one unit
    (1 for sound)."""

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
      text: whether text is spoken; outputs: names.
    """

    sources: dict
    styles: tuple
    chunk_frames: tuple
    steps: tuple
    settings: Settings
    text: bool = False
    outputs: tuple = ("motion",)

    def wire(self):
        """The part of `ready` that is the same for all sessions."""
        voice = [name for name, (_, hears) in self.sources.items() if hears]
        tokens = {name: width for name, (width, _) in self.sources.items()}
        return {
            "inputs": {
                "pcm": {"rates_hz": PCM_RATES if voice else [], "tokenizer": voice},
                "tokens": {"rate_hz": mo.TOKEN_HZ, "width": tokens},
                "text": self.text,
            },
            "outputs": list(self.outputs),
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


def settings(message, before, offer):
    """`Settings` before with what a hello or set changes.

    Raises:
      ProtocolError: `bad_settings`; names the field.
    """
    changes = {}
    for name, setter in SETTERS.items():
        if name in message:
            changes |= setter(message[name], offer)
    return dataclasses.replace(before, **changes)


def change(message, before, offer):
    """`Settings` after a set message; as `settings`, other fields refused."""
    no_others(message, {"type", *SETTERS})
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
        if not is_number(value) or not 0 <= value <= high:
            raise ProtocolError("bad_settings", f"{name}: expected 0 to {high}")
        return {name: float(value)}

    return setter


def _steps(value, offer):
    if type(value) is not int or value not in offer.steps:
        raise ProtocolError("bad_settings", f"steps: expected one of {offer.steps}")
    return {"steps": value}


def _chunk(value, offer):
    wanted = value * mo.FPS if is_number(value) else 0
    frames = [c for c in offer.chunk_frames if abs(c - wanted) < 1e-6]
    if not frames:
        sizes = [c / mo.FPS for c in offer.chunk_frames]
        raise ProtocolError("bad_settings", f"chunk_s: expected one of {sizes}")
    return {"chunk_frames": frames[0]}


SETTERS = {
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
    no_others(message, {"type", "utterance", "frame"})
    values = message.get("utterance"), message.get("frame")
    for value in values:
        if value is not None and (type(value) is not int or not 0 <= value < 2**32):
            raise ProtocolError("bad_message", "cancel: expected counts from 0")
    return values


def said(message, form):
    """The text of a say.

    Raises:
      ProtocolError: `bad_message`: the session is not one of text; `bad_text`.
    """
    if form.kind != "text":
        raise ProtocolError("bad_message", 'say: the input is not of kind "text"')
    no_others(message, {"type", "text"})
    text = message.get("text")
    if not isinstance(text, str) or not 0 < len(text) <= TEXT_CHARS:
        raise ProtocolError("bad_text", f"text: expected 1 to {TEXT_CHARS} characters")
    return text


def columns(outputs):
    """Where each of the outputs stands in a frame, for `ready`."""
    found, first = {}, 0
    for name, width in OUTPUTS.items():
        if name in outputs:
            found[name] = [first, first + width]
            first += width
    return found | ({"names": mo.ARKIT_52} if "arkit" in outputs else {})


def encode(kind, fields):
    """A text message."""
    return json.dumps({"type": kind} | fields, allow_nan=False)


def is_number(value):
    """Whether a value of a message is a number that a float can hold."""
    # Compared first: an integer of a thousand digits is no float.
    return type(value) in (int, float) and -1e9 < value < 1e9


def no_others(message, known):
    """Raises a `bad_message` where a message has other fields."""
    unknown = [str(key)[:NAME_CHARS] for key in message if key not in known]
    if unknown:
        raise ProtocolError("bad_message", f"unknown fields {unknown[:4]}")
