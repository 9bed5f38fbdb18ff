"""From a session's inbox to its outbox: input heard, chunks solved, frames put.

Of text also its sound, made beside the frames. Text comes faster than it is spoken, so
both wait until they are due in `ahead_s`; who cancels has cost little then.
"""

import asyncio
import collections
import dataclasses
import logging

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.live import binary, ears, ease, mouth, rows, session
from toktalk_jax.live.engine import Key
from toktalk_jax.live.protocol import ProtocolError

LOG = logging.getLogger("toktalk_jax.live")


@dataclasses.dataclass
class Item:
    """Input that waits to be heard; units None: the utterance is complete."""

    utterance: int
    units: np.ndarray | str | None
    came: float


@dataclasses.dataclass
class State:
    """All that a session is, to go on with after a cut.

    Attributes:
      session, speech: listening and speaking side; ear: of the speech's input, of
        text its `mouth.Mouth`; said: `mouth.Said` of the newest text.
      begun: `time.perf_counter` at ready; inbox: `Item`s.
      asked: whether a set waits for its answer.
      shown: the newest `binary.Frames` sent, all of one utterance.
    """

    session: session.Session
    begun: float
    speech: session.Speech | None = None
    ear: object = None
    said: mouth.Said | None = None
    asked: bool = False
    inbox: collections.deque = dataclasses.field(default_factory=collections.deque)
    shown: list = dataclasses.field(default_factory=list)


class Speaker:
    """Works through the inbox, one chunk after the other.

    Attributes:
      busy: whether it is between two points where the session could be taken up.
    """

    def __init__(self, state, room, outbox, now, refuse):
        """`now`: milliseconds since ready; `refuse`: takes a `ProtocolError`."""
        self.state, self.room, self.outbox, self.now = state, room, outbox, now
        self.busy, self._stopping = False, False
        self._refuse, self._limits = refuse, room.options.limits
        self._solving, self._sounding = None, []
        self._something = asyncio.Event()

    @property
    def says(self):
        """Whether a text is being said."""
        return self.busy and self.state.session.form.kind == "text"

    def put(self, item):
        """Append to the inbox."""
        self.state.inbox.append(item)
        self._something.set()

    def stop(self):
        """End when what came is said; an unfinished utterance is taken as complete."""
        self._stopping = True
        self._something.set()

    def cancel(self, over, frame):
        """Drop utterances up to `over`; ease to rest from the frame on show."""
        state = self.state
        state.inbox = collections.deque(i for i in state.inbox if i.utterance > over)
        self.outbox.forget(over)
        if state.said and state.said.utterance <= over:
            state.said = None
        if state.speech is not None and state.speech.utterance <= over:
            self._tell_settings()
            state.speech = None
            # Each of them: a task that has not begun cancels none that it waits for.
            for task in (self._solving, *self._sounding):
                if task:
                    task.cancel()
        shown = state.shown[-1] if state.shown else None
        if shown and shown.utterance <= over and not shown.flags & binary.REST:
            self._rest(*session.on_show(state.shown, frame))

    async def run(self):
        """Until `stop`."""
        state = self.state
        while True:
            while not state.inbox:
                if self._stopping and state.speech is None:
                    return
                if self._stopping:
                    state.session, utterance = session.end(state.session)
                    self.put(Item(utterance, None, self.now()))
                    break
                self._something.clear()
                self.busy = False
                await self._something.wait()
            self.busy = True
            item = state.inbox.popleft()
            await (self._say(item) if isinstance(item.units, str) else self._hear(item))

    def answer(self, settings, restarted=False):
        """Tell that these settings are in force."""
        self.state.asked = False
        told = settings.wire() | {"restarted": restarted}
        self.outbox.tell([("settings", told)])

    def reached(self, what, utterance):
        """Note when an utterance of text got where; `said` when all is known."""
        said = self.state.said
        if said and said.utterance == utterance and said.reach(what, self.now()):
            told = said.wire() | {"seconds": self.state.ear.seconds}
            self.outbox.tell([("said", told)])

    async def _say(self, item):
        """Speak a text: of each sentence the states, then frames and sound at once."""
        state = self.state
        state.session, messages = session.solved(
            *(state.session, item.utterance, len(item.units)), self._limits
        )
        self.outbox.tell(messages)
        finding = self._sentences(item.units)
        if state.speech is None:
            speech = self._begin(item)
            found, _ = await asyncio.gather(finding, self._open(speech))
        else:
            state.speech = session.resumed(state.speech, self.now())
            found = await finding
        if state.speech is None:
            return  # cancelled meanwhile
        if not found:
            self._refuse(ProtocolError("bad_text", "it cannot be spoken"))
        elif state.said is None:
            state.said = mouth.Said(item.utterance, item.came)
        try:
            for symbols in found:
                tokens, uttered = await self.room.words(state.ear.utter, symbols)
                if state.speech is None:
                    return
                self.reached("states", item.utterance)
                state.speech = session.heard(
                    state.speech, tokens, item.came, self.now()
                )
                sound = self._sound(uttered, self._sounding[-1:])
                self._sounding.append(asyncio.create_task(sound))
                while state.speech is not None and await self._chunk(False):
                    pass
                if state.speech is None:
                    return
            if self._sounding:
                last = self._sounding[-1]  # which waits for the others
                await asyncio.wait({last})
                if not last.cancelled():
                    last.result()
        finally:
            for task in self._sounding:
                task.cancel()
            self._sounding = []

    async def _sentences(self, text):
        """Symbols of each; none where the synthesizer fails, as on long numbers."""
        try:
            return await self.room.words(mouth.sentences, text)
        except RuntimeError as error:
            LOG.warning("not spoken: %s", error)
            return []

    async def _sound(self, uttered, before):
        """Put a sentence's sound; before: the task of the one before it, if any."""
        for task in before:
            await task
        utterance = self.state.speech.utterance
        pieces = await self.room.sound(self.state.ear.sound, uttered, utterance)
        self.reached("sound", utterance)
        for piece in pieces:
            await asyncio.sleep(self._early_s(piece.first / piece.rate_hz))
            self.outbox.put(piece)

    def _early_s(self, media_s):
        """Seconds until media of a text, at this time of it, are due to be sent."""
        spoken_s = (self.now() - self.state.speech.begun) / 1e3
        return max(media_s - spoken_s - self._limits.ahead_s, 0)

    async def _hear(self, item):
        state, last = self.state, item.units is None
        if state.speech is None:
            await self._open(self._begin(item))
        if (speech := state.speech) is None:
            return  # cancelled meanwhile
        units = state.session.form.no_units if last else item.units
        tokens = await self.room.beside(state.ear.hear, units, last)
        if state.speech is not speech:
            return
        state.speech = session.heard(speech, tokens, item.came, self.now())
        while state.speech is not None and await self._chunk(last):
            pass
        if last and state.speech is not None:
            self._ended()

    def _begin(self, item):
        """The speech of an item's utterance; it can be cancelled from now on."""
        state = self.state
        form, settings = state.session.form, state.session.settings
        source = self.room.engine.sources[form.source]
        if form.kind == "text":
            state.ear = mouth.Mouth(self._seed(item.utterance))
        elif form.kind == "pcm":
            state.ear = ears.Ear(source.tokenizer, form.rate_hz)
        else:
            state.ear = ears.Stack(form.stack)
        none = np.zeros((0, len(source.mean)), np.float32)
        state.speech = session.Speech(item.utterance, item.came, settings, none)
        state.said = None
        return state.speech

    async def _open(self, speech):
        """Its row: before the first chunk is due, not when it waits for its solve."""
        row = await self._row(speech, speech.settings)
        if self.state.speech is speech:
            self.state.speech = dataclasses.replace(speech, row=row)

    async def _chunk(self, last):
        """Solve the next chunk and put its frames; False if none is due."""
        state, text = self.state, self.state.session.form.kind == "text"
        if text and self._due(last)[1] is not None:
            early_s = self._early_s(state.speech.frame / mo.FPS)
            await self._cancellable(asyncio.sleep(early_s))
        settings, tokens = self._due(last)
        if tokens is None:
            return False
        solved = await self._cancellable(self._solve(tokens, settings))
        if solved is None or state.speech is None:
            return False
        row, motion = solved
        if last and len(state.speech.tokens) == len(tokens):
            motion = motion[: state.ear.frames - state.speech.frame]
        state.speech, frames = session.spoken(
            state.speech, state.session.number, row, motion, self.now()
        )
        self.outbox.put(frames)
        if text:
            self.reached("solved", frames.utterance)
            return True
        state.session, messages = session.solved(
            *(state.session, frames.utterance, frames.seconds), self._limits
        )
        self.outbox.tell(messages)
        return True

    async def _cancellable(self, work):
        """The result of a coroutine as a task that `cancel` ends; None if it did."""
        self._solving = asyncio.create_task(work)
        try:
            await asyncio.wait({self._solving})
            return None if self._solving.cancelled() else self._solving.result()
        finally:
            self._solving.cancel()
            self._solving = None

    def _due(self, last):
        """(settings, the next chunk's tokens under them or None)."""
        settings, speech = self.state.session.settings, self.state.speech
        size = settings.chunk_frames // mo.FRAMES_PER_TOKEN
        return settings, speech and session.due(speech, size, last)

    async def _solve(self, tokens, settings):
        """(row, motion [2 s, F]) of a chunk's tokens [s, A] under these settings."""
        speech, room = self.state.speech, self.room
        row, before, restarted = speech.row, speech.settings, speech.restarted
        if row is None or settings != before:
            row = await self._row(speech, settings)
            restarted |= rows.fresh(row) and speech.chunk > 0
            self.state.speech = dataclasses.replace(
                speech, settings=settings, restarted=restarted
            )
        if settings != before or self.state.asked:
            self.answer(settings, restarted)
        key = self._key(settings)
        size = settings.chunk_frames // mo.FRAMES_PER_TOKEN
        chunk = rows.padded(tokens, size, room.engine.sources[key.source].mean)
        row, motion = await room.scheduler.solve(key, row, chunk)
        return row, motion[: len(tokens) * mo.FRAMES_PER_TOKEN]

    async def _row(self, speech, settings):
        old, new = self._key(speech.settings), self._key(settings)
        seed = self._seed(speech.utterance)
        return await self.room.beside(
            self.room.engine.row, speech.row, old, new, settings, seed
        )

    def _seed(self, utterance):
        return (self.state.session.seed + utterance) % 2**32

    def _key(self, settings):
        source = self.state.session.form.source
        return Key(source, settings.chunk_frames, settings.steps)

    def _ended(self):
        state, speech = self.state, self.state.speech
        self._tell_settings()
        state.speech = None
        if speech.frame:
            ids = (speech.utterance, speech.chunk, speech.frame)
            self._rest(speech.last, ids)
        state.session, messages = session.over(
            state.session, speech.utterance, self._limits
        )
        told = {"utterance": speech.utterance, "frames": speech.frame}
        if state.session.form.kind == "text":
            told["seconds"] = state.ear.seconds
        self.outbox.tell([*messages, ("ended", told)])

    def _tell_settings(self):
        """Of a speech that ends: those that no chunk of it came to take up."""
        settings = self.state.session.settings
        if self.state.asked or settings != self.state.speech.settings:
            self.answer(settings)

    def _rest(self, last, ids):
        """Put the return from `last` [1 or 2, F]; ids: utterance, chunk, frame."""
        ids = self.state.session.number, *ids
        self.outbox.put(binary.Frames(ease.to_rest(last), binary.REST, *ids))
