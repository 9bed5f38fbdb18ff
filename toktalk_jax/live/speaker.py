"""From a session's inbox to its outbox: input heard, chunks solved, frames put."""

import asyncio
import collections
import dataclasses

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.live import binary, ears, ease, rows, session
from toktalk_jax.live.engine import Key


@dataclasses.dataclass
class Item:
    """Input that waits to be heard; units None: the utterance is complete."""

    utterance: int
    units: np.ndarray | None
    came: float


@dataclasses.dataclass
class State:
    """All that a session is, to go on with after a cut.

    Attributes:
      session, speech: listening and speaking side; ear: of the speech's input.
      begun: `time.perf_counter` at ready; inbox: `Item`s.
      shown: the newest `binary.Frames` sent, all of one utterance.
    """

    session: session.Session
    begun: float
    speech: session.Speech | None = None
    ear: object = None
    inbox: collections.deque = dataclasses.field(default_factory=collections.deque)
    shown: list = dataclasses.field(default_factory=list)


class Speaker:
    """Works through the inbox, one chunk after the other.

    Attributes:
      busy: whether it is between two points where the session could be taken up.
    """

    def __init__(self, state, room, outbox, now):
        """`now`: milliseconds since ready."""
        self.state, self.room, self.outbox, self.now = state, room, outbox, now
        self.busy, self._stopping = False, False
        self._solving = None
        self._something = asyncio.Event()

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
        if state.speech is not None and state.speech.utterance <= over:
            state.speech = None
            if self._solving:
                self._solving.cancel()
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
            await self._hear(state.inbox.popleft())

    async def _hear(self, item):
        state, last = self.state, item.units is None
        if state.speech is None:
            await self._begin(item)
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

    async def _begin(self, item):
        state = self.state
        form, settings = state.session.form, state.session.settings
        source = self.room.engine.sources[form.source]
        state.ear = (
            ears.Ear(source.tokenizer, form.rate_hz)
            if form.kind == "pcm"
            else ears.Stack(form.stack, form.width)
        )
        none = np.zeros((0, len(source.mean)), np.float32)
        speech = session.Speech(item.utterance, item.came, settings, none)
        state.speech = speech
        # Opened before the first chunk is due, not when it waits for its solve.
        row = await self._row(speech, settings)
        if state.speech is speech:
            state.speech = dataclasses.replace(speech, row=row)

    async def _chunk(self, last):
        """Solve the next chunk and put its frames; False if none is due."""
        state, settings = self.state, self.state.session.settings
        size = settings.chunk_frames // mo.FRAMES_PER_TOKEN
        tokens = session.due(state.speech, size, last)
        if tokens is None:
            return False
        # A task of its own, so that a cancel takes it out of the queue.
        self._solving = asyncio.create_task(self._solve(tokens, settings))
        try:
            await asyncio.wait({self._solving})
            if self._solving.cancelled() or state.speech is None:
                return False
            row, motion = self._solving.result()
        finally:
            self._solving.cancel()
            self._solving = None
        if last and len(state.speech.tokens) <= size:
            motion = motion[: state.ear.frames - state.speech.frame]
        state.speech, frames = session.spoken(
            state.speech, state.session.number, row, motion, self.now()
        )
        state.session, messages = session.solved(
            *(state.session, frames.utterance, frames.seconds),
            self.room.options.limits,
        )
        self.outbox.put(frames)
        self.outbox.tell(messages)
        return True

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
        if settings != before:
            told = settings.wire() | {"restarted": restarted}
            self.outbox.tell([("settings", told)])
        key = self._key(settings)
        size = settings.chunk_frames // mo.FRAMES_PER_TOKEN
        chunk = rows.padded(tokens, size, room.engine.sources[key.source].mean)
        row, motion = await room.scheduler.solve(key, row, chunk)
        return row, motion[: len(tokens) * mo.FRAMES_PER_TOKEN]

    async def _row(self, speech, settings):
        seed = (self.state.session.seed + speech.utterance) % 2**32
        old = self._key(speech.settings)
        new = self._key(settings)
        return await self.room.beside(
            self.room.engine.row, speech.row, old, new, settings, seed
        )

    def _key(self, settings):
        source = self.state.session.form.source
        return Key(source, settings.chunk_frames, settings.steps)

    def _ended(self):
        state, speech = self.state, self.state.speech
        state.speech = None
        if speech.frame:
            ids = (speech.utterance, speech.chunk, speech.frame)
            self._rest(speech.last, ids)
        state.session, messages = session.over(
            state.session, speech.utterance, self.room.options.limits
        )
        told = {"utterance": speech.utterance, "frames": speech.frame}
        self.outbox.tell([*messages, ("ended", told)])

    def _rest(self, last, ids):
        """Put the return from `last` [1 or 2, F]; ids: utterance, chunk, frame."""
        ids = self.state.session.number, *ids
        self.outbox.put(binary.Frames(ease.to_rest(last), binary.REST, *ids))
