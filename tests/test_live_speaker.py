"""A session's speaker without a server: what a cancel meets between two steps."""

import asyncio
import types

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.live import binary, mouth, rows, session
from toktalk_jax.live.outbox import Outbox
from toktalk_jax.live.protocol import InputFormat, Settings
from toktalk_jax.live.speaker import Item, Speaker, State

WIDTH, RATE = 256, 24_000
FORM = InputFormat("text", "hibari", 80.0, "", WIDTH)


class Room:
    """What a speaker needs of a room: two sentences in each text, chunks of zeros.

    Attributes:
      uttered: called when the states of a sentence are there, with their count so far.
    """

    def __init__(self, ahead_s=60.0):
        limits = session.Limits(ahead_s=ahead_s)
        self.options = types.SimpleNamespace(limits=limits)
        source = types.SimpleNamespace(mean=np.zeros(WIDTH, np.float32))
        self.engine = types.SimpleNamespace(sources={"hibari": source}, row=None)
        self.scheduler = self
        self.uttered, self._count = lambda count: None, 0

    async def beside(self, function, *arguments):
        if function is self.engine.row:
            return rows.Row(types.SimpleNamespace(chunk=[0]))
        return function(*arguments)

    async def words(self, function, given):
        await asyncio.sleep(0.001)
        if function is mouth.sentences:
            return [] if given == "?!" else ["one", "two"]
        self._count += 1
        self.uttered(self._count)
        return np.zeros((5, WIDTH), np.float32), given

    async def sound(self, function, uttered, utterance):
        first = 0 if uttered == "one" else 2 * RATE
        samples = np.zeros(RATE // 2, np.int16)
        return [
            binary.Sound(samples, utterance, first + RATE // 2 * i, RATE)
            for i in range(4)
        ]

    async def solve(self, key, row, tokens):
        return row, np.zeros((1, 2 * tokens.shape[1], mo.F), np.float32)[0]


def opened(room, now=lambda: 0.0):
    """(speaker, its state, its outbox), of a session of text."""
    settings = Settings("none", 1.0, 0.0, 5, 10)
    state = State(session.Session(1, FORM, settings), 0.0)
    box = Outbox(60.0)
    return Speaker(state, room, box, now, lambda error: None), state, box


def media(box):
    """What waits in an outbox and is no text."""
    return [item for item in box._waiting if not isinstance(item, str)]


async def until(found):
    async with asyncio.timeout(10):
        while not found():
            await asyncio.sleep(0.005)


async def over(running):
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_a_cancel_that_meets_a_text_before_its_first_step_ends_it():
    async def run():
        speaker, state, box = opened(Room())
        running = asyncio.create_task(speaker.run())
        await asyncio.sleep(0)
        speaker.put(Item(0, "Hello.", 0.0))
        while state.inbox:
            await asyncio.sleep(0)
        speaker.cancel(0, None)
        await asyncio.sleep(0.05)
        assert state.speech is None and media(box) == []
        speaker.put(Item(1, "Hello.", 0.0))
        await until(lambda: media(box))
        assert {item.utterance for item in media(box)} == {1}
        await over(running)

    asyncio.run(run())


def test_a_cancel_between_two_sentences_ends_the_sound_of_both():
    """It comes when the second's sound was asked for, and has not begun to wait."""

    async def run():
        room, armed = Room(ahead_s=0.0), []

        def now():
            if armed:
                asyncio.get_running_loop().call_soon(speaker.cancel, *armed.pop())
            return 0.0

        speaker, state, box = opened(room, now)
        room.uttered = lambda count: count == 2 and armed.append((0, None))
        # Frames are not waited for here, only sound.
        speaker._chunk = lambda last: asyncio.sleep(0.001, False)
        speaker._early_s = lambda media_s: 0.1 * media_s
        running = asyncio.create_task(speaker.run())
        speaker.put(Item(0, "Hello.", 0.0))
        while state.speech is None:
            await asyncio.sleep(0)
        while state.speech is not None:
            await asyncio.sleep(0)
        box.forget(0)
        await asyncio.sleep(0.4)
        assert media(box) == []
        await over(running)

    asyncio.run(run())


def test_the_clock_of_said_begins_with_a_text_that_can_be_spoken():
    async def run():
        speaker, state, box = opened(Room())
        running = asyncio.create_task(speaker.run())
        speaker.put(Item(0, "?!", 100.0))
        await until(lambda: state.speech and not speaker.busy)
        assert state.said is None
        speaker.put(Item(0, "Hello.", 900.0))
        await until(lambda: state.said)
        assert state.said.came == 900.0
        await over(running)

    asyncio.run(run())
