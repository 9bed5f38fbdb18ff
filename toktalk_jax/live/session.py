"""What a session knows, as values: state in, state out; no socket, no clock, no JAX.

`Session` is the listening side (order of messages, queue, utterances), `Speech` the
speaking side of one utterance (tokens that wait, frames that went out).
"""

import dataclasses

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.live import binary, ease
from toktalk_jax.live.protocol import InputFormat, ProtocolError, Settings


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a server allows; announced in `ready`. Seconds, of media where it says so.

    Attributes:
      hello_s: until the hello; idle_s: without a message, or a text that is being
        said; max_s: of a session.
      warn_s: how long before a cut it is announced; resume_s: how long after one the
        session can be taken up.
      input_s, output_s: of media that wait on either side.
      text_chars: characters that wait; ahead_s: how long before it is spoken media of
        a text is sent, half of output_s or less: then a reading client loses none.
      errors: non-fatal errors until the session is closed; message_bytes: of one.
    """

    hello_s: float = 5.0
    idle_s: float = 60.0
    max_s: float = 3600.0
    warn_s: float = 10.0
    resume_s: float = 60.0
    input_s: float = 2.0
    output_s: float = 4.0
    text_chars: int = 2000
    ahead_s: float = 2.0
    errors: int = 16
    message_bytes: int = 1 << 20


@dataclasses.dataclass(frozen=True)
class Session:
    """The listening side.

    Attributes:
      receiving: the utterance that input belongs to; sequence: the message expected.
      queued: {utterance: seconds accepted and not solved, of text characters}.
      slowed, refusing: whether slow_down, or a refusal of this run, was told.
    """

    number: int
    form: InputFormat
    settings: Settings
    seed: int = 0
    receiving: int = 0
    sequence: int = 0
    queued: dict = dataclasses.field(default_factory=dict)
    slowed: bool = False
    refusing: bool = False

    @property
    def queued_s(self):
        """Seconds of media that wait to be solved; of text, characters."""
        return sum(self.queued.values())

    @property
    def waits(self):
        """`queued_s` by its name on the wire."""
        name = "queued_chars" if self.form.kind == "text" else "queued_s"
        return {name: self.queued_s}


def take(session, utterance, sequence, seconds, limits, full=False):
    """Accept a binary message: (session, whether to use it, [(type, fields)] to send).

    `full`: as many messages wait as may, however short they are.

    Raises:
      Refused: `utterance`, `sequence` or `overrun`; carries the session as it then is.
      ProtocolError: `bad_input`, a message that the queue could not hold.
    """
    if seconds > limits.input_s:
        text = f"a message of {seconds:.2f} s; at most {limits.input_s} s"
        raise ProtocolError("bad_input", text)
    if utterance < session.receiving:
        return session, False, []  # it crossed a cancel or an end
    expected = {"utterance": session.receiving, "expected": session.sequence}
    if utterance > session.receiving:
        raise Refused(session, "utterance", "not yet begun", **expected)
    if sequence > session.sequence and session.refusing:
        return session, False, []  # told once; the rest of what was in flight
    refusing = dataclasses.replace(session, refusing=True)
    if sequence != session.sequence:
        ahead = sequence > session.sequence
        came = f"message {sequence} came, {session.sequence} was expected"
        raise Refused(refusing if ahead else session, "sequence", came, **expected)
    if full or session.queued_s + seconds > 2 * limits.input_s:
        text = f"{session.queued_s:.2f} s are queued; wait for go_on"
        raise overrun(refusing, text)
    queued = _with(session.queued, utterance, seconds)
    session = dataclasses.replace(
        session, sequence=sequence + 1, queued=queued, refusing=False
    )
    if session.slowed or session.queued_s <= limits.input_s:
        return session, True, []
    told = [("slow_down", {"queued_s": session.queued_s})]
    return dataclasses.replace(session, slowed=True), True, told


def say(session, text, limits):
    """The session with a text accepted into its current utterance.

    Raises:
      Refused: `overrun`; carries the session as it then is.
    """
    if session.queued_s + len(text) > limits.text_chars:
        told = f"{session.queued_s} characters wait; wait for go_on"
        raise overrun(session, told)
    queued = _with(session.queued, session.receiving, len(text))
    return dataclasses.replace(session, queued=queued)


def overrun(session, text):
    """What to raise where too much waits already: dropped, and a go_on will come."""
    expected = {"utterance": session.receiving, "expected": session.sequence}
    slowed = dataclasses.replace(session, slowed=True)
    return Refused(slowed, "overrun", text, **expected)


def solved(session, utterance, seconds, limits):
    """Seconds, or characters, of an utterance left the queue: (session, messages)."""
    left = max(session.queued.get(utterance, 0) - seconds, 0)
    return _drained(session, {**session.queued, utterance: left}, limits)


def over(session, utterance, limits):
    """Nothing of the utterances up to this one waits any more: (session, messages)."""
    left = {u: s for u, s in session.queued.items() if u > utterance}
    return _drained(session, left, limits)


def _drained(session, queued, limits):
    session = dataclasses.replace(session, queued=queued)
    bound = limits.text_chars if session.form.kind == "text" else limits.input_s
    if not session.slowed or session.queued_s > bound / 2:
        return session, []
    expected = {"utterance": session.receiving, "expected": session.sequence}
    session = dataclasses.replace(session, slowed=False)
    return session, [("go_on", session.waits | expected)]


def end(session):
    """The utterance is complete: (session, its number)."""
    return _next(session, session.receiving), session.receiving


def cancel(session, utterance, limits):
    """Cancel up to an utterance, None: all: (session, utterance, messages).

    Raises:
      ProtocolError: `utterance`, one that has not begun.
    """
    utterance = session.receiving if utterance is None else utterance
    if utterance > session.receiving:
        expected = {"utterance": session.receiving, "expected": session.sequence}
        raise ProtocolError("utterance", "not yet begun", **expected)
    session, messages = over(_next(session, utterance), utterance, limits)
    done = {"utterance": utterance, "next": session.receiving}
    return session, utterance, [("cancelled", done), *messages]


def _next(session, utterance):
    """Listening goes on with the utterance after this one, if it has not yet."""
    if utterance < session.receiving:
        return session
    return dataclasses.replace(
        session, receiving=utterance + 1, sequence=0, refusing=False
    )


def _with(queued, utterance, seconds):
    return {**queued, utterance: queued.get(utterance, 0) + seconds}


class Refused(ProtocolError):
    """An input message that was dropped; `session` is the state after it."""

    def __init__(self, session, code, message, **more):
        super().__init__(code, message, **more)
        self.session = session


@dataclasses.dataclass(frozen=True)
class Speech:
    """The speaking side of one utterance.

    Attributes:
      begun: when its first input came, ms.
      settings: in force; row: host row of its stream, None before the first chunk.
      tokens: [s, A] that fill no chunk yet; times: (came, tokenised) ms of each.
      chunk, frame: the next ones.
      last: [0 to 2, F] newest frames solved; restarted: the next chunk joins them.
    """

    utterance: int
    begun: float
    settings: Settings
    tokens: np.ndarray
    times: tuple = ()
    row: object = None
    chunk: int = 0
    frame: int = 0
    last: np.ndarray = dataclasses.field(
        default_factory=lambda: np.zeros((0, mo.F), np.float32)
    )
    restarted: bool = False


def resumed(speech, now):
    """More is said, now; what was said before may have been spoken long ago."""
    begun = max(speech.begun, now - 1e3 * speech.frame / mo.FPS)
    return dataclasses.replace(speech, begun=begun)


def heard(speech, tokens, came, tokenised):
    """More tokens [s, A] came in."""
    return dataclasses.replace(
        speech,
        tokens=np.concatenate([speech.tokens, tokens]),
        times=speech.times + ((came, tokenised),) * len(tokens),
    )


def due(speech, chunk_tokens, last):
    """The next chunk's tokens [s, A], fewer only at the end; None: nothing is due."""
    if len(speech.tokens) >= chunk_tokens or (last and len(speech.tokens)):
        return speech.tokens[:chunk_tokens]
    return None


def spoken(speech, number, row, motion, solved_ms):
    """A chunk was solved.

    Args:
      number: of the session; row: the stream after it; motion: [C or fewer, F].
      solved_ms: when.

    Returns:
      (speech, `binary.Frames`). Motion that is not finite becomes the last good pose,
      and the solver begins anew.
    """
    size = speech.settings.chunk_frames // mo.FRAMES_PER_TOKEN
    came, tokenised = speech.times[: min(size, len(speech.times))][-1]
    flags, rest = 0, speech.tokens[size:]
    if not np.isfinite(motion).all():
        pose = speech.last[-1:] if len(speech.last) else np.zeros((1, mo.F), np.float32)
        motion, row, flags = np.repeat(pose, len(motion), 0), None, binary.HELD
    elif speech.restarted and len(speech.last):
        motion, flags = ease.join(motion, speech.last), binary.RESTARTED
    frames = binary.Frames(
        *(motion, flags, number, speech.utterance, speech.chunk, speech.frame),
        **{"buffered": came, "tokenised": tokenised, "solved": solved_ms},
    )
    # Due when its sound was complete and, if sent ahead of time, spoken.
    said = speech.begun + 1e3 * (frames.first + len(motion)) / mo.FPS
    spare = 1e3 * speech.settings.chunk_frames / mo.FPS
    frames = dataclasses.replace(frames, deadline=max(came, said) + spare)
    speech = dataclasses.replace(
        speech,
        row=row,
        tokens=rest,
        times=speech.times[size:],
        chunk=speech.chunk + 1,
        frame=speech.frame + len(motion),
        last=np.concatenate([speech.last, motion])[-2:],
        restarted=row is None,
    )
    return speech, frames


def on_show(shown, frame):
    """Where an eased return begins.

    Args:
      shown: `binary.Frames` sent of an utterance, in order; frame: the one on show, or
        None: the last.

    Returns:
      ([1 or 2, F] newest last, (utterance, chunk, first frame of the return)).
    """
    newest = shown[-1]
    end = newest.first + len(newest.motion)
    motion = np.concatenate([f.motion for f in shown])
    first = np.concatenate([f.first + np.arange(len(f.motion)) for f in shown])
    seen = first <= (end if frame is None else frame)
    last = motion[seen][-2:] if seen.any() else motion[:1]
    return last, (newest.utterance, newest.chunk, end)
