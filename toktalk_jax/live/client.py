"""A client of the live server: a session from Python (extra [serve]).

    with contextlib.closing(Client("ws://127.0.0.1:8000/live", style="warm")) as client:
        client.say(audio, pace=PIECE / mo.SAMPLE_RATE)  # 16 kHz, as it is spoken
        client.send("end")
        client.told("ended")
        motion = motion_of(client)

The wire is described in `protocol`; `tools/live_client.py` is a program around this.
"""

import json
import threading
import time

import numpy as np
import websocket

from toktalk_jax import motion as mo
from toktalk_jax.live import binary, protocol

PIECE = mo.SAMPLES_PER_TOKEN  # samples of a message: 80 ms


class Client:
    """A session. Messages are gathered by a thread: texts, frames; `ready` first."""

    def __init__(self, url, token="", **hello):
        """Open; hello: fields of the hello, "input" by default sound at 16 kHz.

        Raises:
          ConnectionError: the server is busy, or refused the hello.
        """
        offered = ["toktalk.1", *([f"token.{token}"] if token else [])]
        self.socket = websocket.create_connection(
            url, subprotocols=offered, suppress_origin=True, timeout=30
        )
        pcm = {"kind": "pcm", "rate_hz": mo.SAMPLE_RATE, "dtype": "f32"}
        self.texts, self.frames, self.came, self.sounds = [], [], [], []
        self.changed, self.over = threading.Condition(), False
        hello = {"version": 1, "input": pcm} | hello
        self.unit_s = 1 / hello["input"].get("rate_hz", 1)
        self._outputs = hello.get("outputs", ["motion"])
        self.send("hello", **hello)
        threading.Thread(target=self._gather, daemon=True).start()
        first = self.wait(lambda c: c.texts and c.texts[0])
        if first["type"] != "ready":
            raise ConnectionError(f"no session: {first}")
        self.ready = first

    def _gather(self):
        try:
            while True:
                kind, data = self.socket.recv_data()
                with self.changed:
                    if kind == websocket.ABNF.OPCODE_BINARY and data[0] == 3:
                        self.sounds.append(binary.decode_sound(data))
                    elif kind == websocket.ABNF.OPCODE_BINARY:
                        self.frames.append(binary.decode_frames(data, self._outputs))
                        self.came.append(time.perf_counter())
                    elif kind == websocket.ABNF.OPCODE_TEXT:
                        self.texts.append(json.loads(data))
                    else:
                        break
                    self.changed.notify_all()
        except (OSError, websocket.WebSocketException):
            pass
        finally:  # of a damaged message, too: whoever waits is told
            with self.changed:
                self.over = True
                self.changed.notify_all()

    def wait(self, found, timeout=30):
        """The first true value of found(self).

        Raises:
          TimeoutError, ConnectionError: it did not come, or the server closed before.
        """
        until = time.monotonic() + timeout
        with self.changed:
            while not (value := found(self)):
                if self.over:
                    raise ConnectionError(f"closed; last came {self.texts[-1:]}")
                if not self.changed.wait(until - time.monotonic()):
                    raise TimeoutError(f"waited {timeout} s; last {self.texts[-1:]}")
            return value

    def told(self, kind, count=1, timeout=30):
        """The message of this type that came as the count-th."""
        of = lambda c: [t for t in c.texts if t["type"] == kind]  # noqa: E731
        return self.wait(lambda c: len(of(c)) >= count and of(c), timeout)[count - 1]

    def send(self, kind, **fields):
        """A text message."""
        self.socket.send(json.dumps({"type": kind} | fields))

    def say(self, units, utterance=0, piece=PIECE, pace=0.0, first=0):
        """Send units piece by piece; pace: seconds of each, 0: as the limit allows."""
        begin, window_s = time.perf_counter(), self.ready["limits"]["input_s"]
        for i, at in enumerate(range(0, len(units), piece)):
            if pace:  # a piece is sent when the last of its sound was spoken
                time.sleep(max(0.0, begin + (i + 1) * pace - time.perf_counter()))
            else:
                said = ((first + i + 1) * piece * self.unit_s - window_s) * mo.FPS
                self.wait(lambda c, n=said: sum(spoken(c, utterance)) >= n)
            data = binary.encode_input(utterance, first + i, units[at : at + piece])
            self.socket.send_binary(data)

    def close(self):
        """Leave."""
        self.socket.close(timeout=1)


def spoken(client, utterance=0):
    """Counts of frames of speech that came, message by message."""
    return [
        len(f.motion)
        for f in client.frames
        if f.utterance == utterance and not f.flags & binary.REST
    ]


def motion_of(client, utterance=0, name="motion"):
    """[T, 56] of the speech of an utterance, in order; name "arkit": [T, 52]."""
    speech = [f for f in client.frames if f.utterance == utterance]
    speech = [getattr(f, name) for f in speech if not f.flags & binary.REST]
    width = protocol.OUTPUTS[name]
    return np.concatenate([np.zeros((0, width), np.float32), *speech])


def sound_of(client, utterance=0):
    """(samples [L] i16, Hz) of a said utterance."""
    sounds = [s for s in client.sounds if s.utterance == utterance]
    samples = [np.zeros(0, np.int16), *(s.samples for s in sounds)]
    return np.concatenate(samples), sounds[0].rate_hz if sounds else mo.SAMPLE_RATE
