r"""Stream a wav, or say a text, to a live server and save what comes back.

    python -m toktalk_jax.serve --adapter hibari_to_small &
    python -m tools.live_client speech.wav --out motion.npz --style warm
    python -m tools.live_client --say "Hello there." --out motion.npz   # and motion.wav

Sound goes out in pieces of 80 ms: as a microphone would send it or, with --fast, as
quickly as the server's limit on queued input allows. Of the frames, those of speech are
kept; with --arkit also the 52 weights of each, as `arkit`. The wire is described in
`toktalk_jax/live/protocol.py`.
"""

import argparse
import base64
import contextlib
import json
import os
import pathlib
import threading
import time

import numpy as np
import soundfile
import websocket

from toktalk_jax import motion as mo
from toktalk_jax.data.audio import read_audio
from toktalk_jax.live import binary, protocol

PIECE = mo.SAMPLES_PER_TOKEN


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


def streamed(client, audio, fast):
    """Stream sound at 16 kHz; as `sound_of`."""
    client.say(audio, pace=0.0 if fast else PIECE / mo.SAMPLE_RATE)
    client.send("end")
    client.told("ended")
    sound = np.clip(np.round(audio * 32767), -32768, 32767).astype(np.int16)
    return sound, mo.SAMPLE_RATE


def said(client, text, out):
    """Say a text and write its sound beside `out`; the sound, as `sound_of`."""
    client.send("say", text=text)
    client.send("end")
    # It comes after an error, too.
    client.told("ended", timeout=client.ready["limits"]["max_s"])
    sound, rate = sound_of(client)
    if not len(sound):
        raise ValueError(f"nothing was said: {client.texts[-2:]}")
    soundfile.write(pathlib.Path(out).with_suffix(".wav"), sound, rate)
    names = ("ttftb_ms", "audio_ms", "animation_ms", "first_frame_ms")
    told = client.told("said")
    print(", ".join(f"{name[:-3]} {told[name]:.0f} ms" for name in names))
    return sound, rate


def parser():
    """Of the command line."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("wav", nargs="?", help="sound to stream (any rate; mono or stereo)")
    p.add_argument("--say", default="", metavar="TEXT", help="text in its place")
    p.add_argument("--url", default="ws://127.0.0.1:8000/live")
    p.add_argument("--token", default=os.environ.get("TOKTALK_TOKEN", ""))
    p.add_argument("--out", default="motion.npz", help="file to write")
    p.add_argument("--style", help="a name that the server offers, or a style .npz")
    p.add_argument("--steps", type=int)
    p.add_argument("--chunk_s", type=float)
    p.add_argument("--guidance", type=float)
    p.add_argument("--seed", type=int, default=0, help="of the noise")
    p.add_argument("--fast", action="store_true", help="not at the pace of speech")
    p.add_argument("--arkit", action="store_true", help="also ARKit-52 weights")
    return p


def hello_of(args):
    """Fields of the hello that the arguments ask for."""
    names = ("style", "steps", "chunk_s", "guidance", "seed")
    hello = {k: getattr(args, k) for k in names if getattr(args, k) is not None}
    if (args.style or "").endswith(".npz"):
        data = pathlib.Path(args.style).read_bytes()
        hello["style"] = {"npz": base64.b64encode(data).decode()}
    if args.say:
        hello["input"] = {"kind": "text"}
    return hello | ({"outputs": ["motion", "arkit"]} if args.arkit else {})


def main(arguments=None):
    """Command line."""
    args = parser().parse_args(arguments)
    if bool(args.wav) == bool(args.say):
        raise SystemExit("live_client: give a wav or --say TEXT")
    try:
        audio = read_audio(args.wav) if args.wav else None
        opened = Client(args.url, args.token, **hello_of(args))
        with contextlib.closing(opened) as client:
            if args.say:
                sound, rate = said(client, args.say, args.out)
            else:
                sound, rate = streamed(client, audio, args.fast)
    except (OSError, ValueError, websocket.WebSocketException) as error:
        raise SystemExit(f"live_client: {error}") from None
    motion = motion_of(client)
    model = client.ready["model"]
    facts = {"fps": mo.FPS, "seed": args.seed, "checkpoint": model["hash"]}
    facts |= {k: model[k] for k in ("head_joint", "face_model")}
    facts["style"] = client.ready["settings"]["style"]
    facts["chunk_frames"] = round(client.ready["settings"]["chunk_s"] * mo.FPS)
    if args.arkit:
        facts |= {"arkit": motion_of(client, name="arkit"), "arkit_names": mo.ARKIT_52}
    np.savez_compressed(args.out, motion=motion, audio=sound, sample_rate=rate, **facts)
    late = sum(bool(f.flags & binary.LATE) for f in client.frames)
    waits = [f.sent - f.buffered for f in client.frames if not f.flags & binary.REST]
    print(
        f"{args.out}: {len(motion) / mo.FPS:.2f} s of motion; from a chunk's input "
        f"to its frames {np.median(waits):.0f} ms (median); {late} chunks late"
    )


if __name__ == "__main__":
    main()
