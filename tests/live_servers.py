"""Live servers in a thread, clients for them, and what they must answer."""

import asyncio
import contextlib
import dataclasses
import threading
import time
import urllib.error
import urllib.request

import jax
import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.live import binary, door, room, server
from toktalk_jax.live.client import Client, motion_of
from toktalk_jax.live.engine import Key

FRAME_S = 1 / mo.FPS


@dataclasses.dataclass
class Running:
    """A server in this process: what it shares, and where it is."""

    room: object
    port: int
    loop: object  # -> asyncio's

    @property
    def url(self):
        """Of the WebSocket."""
        return f"ws://127.0.0.1:{self.port}/live"

    def client(self, token="", **hello):
        """A `Client`."""
        return Client(self.url, token, **hello)

    @contextlib.contextmanager
    def clients(self, **given):
        """What opens clients; at the end they leave and their slots come back.

        given: fields of every hello.
        """
        opened = []

        def make(**hello):
            opened.append(self.client(**(given | hello)))
            return opened[-1]

        yield make
        for each in opened:
            each.close()
        self.settled()

    def get(self, path):
        """(status, text) of a page."""
        return get(f"http://127.0.0.1:{self.port}{path}")

    def tasks(self):
        """How many tasks the server's loop holds."""

        async def count():
            return len(asyncio.all_tasks())

        return asyncio.run_coroutine_threadsafe(count(), self.loop()).result(5)

    def settled(self, seconds=10):
        """Wait until all slots are back; promised within 2 s."""
        until(lambda: not self.room.open, seconds)


def get(url):
    """(status, text) of a page."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def until(found, seconds=10):
    """Wait until found() is true, and return that."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, f"waited {seconds} s"
        time.sleep(0.01)
    return value


@contextlib.contextmanager
def serving(engine, *, ready=True, limits=None, page=None, **options):
    """A server of its own on a free port, in a thread.

    Args:
      limits: fields of `Limits`; page: what makes its page of the allowed origins.
    """
    listening = server.listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    options = {
        "max_sessions": 4,
        "limits": room.Limits(**(limits or {})),
        "origins": door.origins("127.0.0.1", port),
        **options,
    }
    shared = room.Room(engine, room.Options(**options))
    running = server.Server(shared, page and page(options["origins"]))
    thread = threading.Thread(target=running.run, args=([listening],))
    thread.start()
    try:
        until(lambda: running.started)
        if ready:
            until(lambda: shared.state == "ready", 60)
        yield Running(shared, port, lambda: shared.scheduler.loop)
    finally:
        running.should_exit = True
        thread.join(20)
        listening.close()
        assert not thread.is_alive()


def speech(seconds, seed=0):
    """[L] f32 at 16 kHz: tones whose loudness moves."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * mo.SAMPLE_RATE)) / mo.SAMPLE_RATE
    loud = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(1, 3) * time_s)
    wave = 0.4 * loud * np.sin(2 * np.pi * rng.uniform(150, 300) * time_s)
    return wave.astype("f4")


def solo(
    engine, audio, *, seed=0, tokens=None, source="mel_rvq", whole=False, **changes
):
    """[T, 56] that a sampler gives of sound, or tokens, and settings.

    Args:
      source: whose tokens they are.
      whole: by `Sampler.sample_clip`; else by push and flush, its equal bitwise, which
        needs no compile per length.
    """
    settings = dataclasses.replace(engine.offer.settings, **changes)
    key = Key(source, settings.chunk_frames, settings.steps)
    if tokens is None:
        tokens = engine.sources["mel_rvq"].tokenizer.embed(audio)
    sampler, style = engine.samplers[key], engine.style(settings)
    keys, guidance = jax.random.key(seed)[None], settings.guidance
    count = len(tokens) * 2 if audio is None else -(-len(audio) // 640)
    if whole:
        motion = sampler.sample_clip(keys, tokens[None], style, guidance)
        return np.asarray(motion)[0, :count]
    stream = sampler.init(keys, style, guidance)
    stream, chunks = sampler.push(stream, tokens[None])
    _, tail = sampler.flush(stream)
    chunks += [] if tail is None else [tail]
    return np.concatenate(chunks, 1)[0, :count]


def close_to(found, wanted):
    """Equal within what a batch of another size changes."""
    assert found.shape == wanted.shape
    assert np.linalg.norm(found - wanted) <= 1e-5 * np.linalg.norm(wanted)


def say(client, audio, utterance=0, **how):
    """Say an utterance to its end; returns its motion."""
    client.say(audio, utterance, **how)
    client.send("end")
    ended = lambda c: [  # noqa: E731
        t for t in c.texts if t["type"] == "ended" and t["utterance"] == utterance
    ]
    client.wait(ended)
    return motion_of(client, utterance)


def rest_of(client, utterance=0):
    """The eased returns of an utterance."""
    return [
        f for f in client.frames if f.utterance == utterance and f.flags & binary.REST
    ]
