"""A server that speaks the live protocol by rote: the page, and none of the model."""

import asyncio
import contextlib
import dataclasses
import json
import struct
import threading

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from tests.live_servers import until
from toktalk_jax import motion as mo
from toktalk_jax.live import binary, door, pages, server

NAUGHTY = '<img src="x" onerror="window.hacked = 1">'
RATE = 24_000
CHUNK = 10
SAID = {"seconds": 2.0, "ttftb_ms": 40, "audio_ms": 90, "animation_ms": 60}
SAID |= {"first_frame_ms": 151.5}


@dataclasses.dataclass
class Stub:
    """What it was told, and how it answers.

    Attributes:
      heard: the text messages that came; samples: count of those of sound.
      busy: sessions to put off; token: asked for at the door; cut: closes what is open.
    """

    port: int = 0
    heard: list = dataclasses.field(default_factory=list)
    samples: int = 0
    busy: int = 0
    token: str = ""
    cut: object = None

    @property
    def url(self):
        """Of the page."""
        return f"http://127.0.0.1:{self.port}/"

    def kinds(self):
        """Types of the messages that came."""
        return [message["type"] for message in self.heard]


def jaw(seconds):
    """Opening of the jaw, rad, of what the stub says; its sound is as loud."""
    return 0.12 * (1 - np.cos(2 * np.pi * 1.5 * seconds))


def motion(frames):
    """[len(frames), 56]: frames of what the stub says."""
    out = np.zeros((len(frames), mo.F), np.float32)
    out[:, mo.JAW.start] = jaw(np.asarray(frames) / mo.FPS)
    return out


@contextlib.contextmanager
def serving(**facts):
    """A `Stub` on a free port, in a thread."""
    listening = server.listen("127.0.0.1", 0)
    stub = Stub(port=listening.getsockname()[1], **facts)
    origins = door.origins("127.0.0.1", stub.port)
    dataset = {"face_model": "stand_in", "head_joint": "neck"}
    page = pages.Page(dataset, "", origins, stub.token)

    async def live(websocket):
        await _live(stub, websocket)

    async def healthz(request):
        return JSONResponse({"alive": True})

    async def export(request):
        assert len(await request.body()) % (4 * mo.F) == 0
        return JSONResponse({"error": f"no curves of {NAUGHTY}"}, 503)

    routes = [
        *page.routes,
        Route("/healthz", healthz),
        Route("/export/{kind}", export, methods=["POST"]),
        WebSocketRoute("/live", live),
    ]
    config = uvicorn.Config(Starlette(routes=routes), ws="wsproto", log_level="warning")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, args=([listening],))
    thread.start()
    try:
        until(lambda: running.started)
        yield stub
    finally:
        running.should_exit = True
        thread.join(20)
        listening.close()


async def _live(stub, websocket):
    if stub.token and f"token.{stub.token}" not in websocket.scope["subprotocols"]:
        await websocket.close()  # before accept: a refusal
        return
    await websocket.accept("toktalk.1")
    loop, closing = asyncio.get_running_loop(), asyncio.Event()
    stub.cut = lambda: loop.call_soon_threadsafe(closing.set)
    if stub.busy:
        stub.busy -= 1
        await _tell(websocket, "busy", reason="sessions", retry_after_s=0.5)
        await websocket.close(1013)
        return
    answering = asyncio.create_task(_answer(stub, websocket))
    await asyncio.wait(
        {answering, asyncio.create_task(closing.wait())},
        return_when=asyncio.FIRST_COMPLETED,
    )
    answering.cancel()
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):
        await websocket.close(1011)


async def _answer(stub, websocket):
    settings = {"style": NAUGHTY, "style_strength": 1.0, "guidance": 0.6}
    settings |= {"steps": 5, "chunk_s": 0.4}
    utterance, speaking = 0, None
    while (message := await websocket.receive())["type"] == "websocket.receive":
        if message.get("text") is None:
            stub.samples += (len(message["bytes"]) - 12) // 2
            continue
        fields = json.loads(message["text"])
        kind = fields["type"]
        stub.heard.append(fields)
        if kind == "hello":
            await _tell(websocket, "ready", **_ready(settings))
        elif kind == "set" and isinstance(fields.get("style"), dict):
            error = {"code": "bad_settings", "message": f"style: no clip, {NAUGHTY}"}
            await _tell(websocket, "error", **error, fatal=False)
        elif kind == "set":
            settings |= {k: v for k, v in fields.items() if k != "type"}
            await _tell(websocket, "settings", **settings, restarted=False)
        elif kind == "say":
            speaking = asyncio.create_task(_say(websocket, utterance))
        elif kind == "end":
            if speaking is None:  # of sound; it has no face for that
                await _tell(websocket, "ended", utterance=utterance, frames=0)
            utterance += 1
        elif kind == "cancel":
            if speaking:
                speaking.cancel()
            utterance += 1
            done = {"utterance": utterance - 1, "next": utterance}
            await _tell(websocket, "cancelled", **done)
        elif kind == "bye":
            return


def _ready(settings):
    return {
        "version": 1,
        "session": 1,
        "utterance": 0,
        "expected": 0,
        "model": {"hash": "abc", "face_model": "stand_in", "head_joint": "neck"},
        "inputs": {"text": True, "pcm": {"rates_hz": [], "tokenizer": []}},
        "styles": [NAUGHTY, "neutral"],
        "chunk_s": [0.4, 0.24],
        "steps": [5, 10],
        "limits": {"message_bytes": 1 << 20},
        "settings": settings,
    }


async def _say(websocket, utterance):
    """Two seconds of a hum as loud as the mouth is open, ahead of their time."""
    frames = round(mo.FPS * SAID["seconds"])
    for chunk, first in enumerate(range(0, frames, CHUNK)):
        time_s = np.arange(first * RATE // mo.FPS, (first + CHUNK) * RATE // mo.FPS)
        time_s = time_s / RATE
        wave = jaw(time_s) / 0.24 * 0.5 * np.sin(2 * np.pi * 150 * time_s)
        head = struct.pack("<BBHIII", 3, 0, 0, utterance, round(time_s[0] * RATE), RATE)
        samples = np.round(32767 * wave).astype("<i2")
        await websocket.send_bytes(head + samples.tobytes())
        shown = motion(np.arange(first, first + CHUNK))
        spoken = binary.Frames(shown, 0, 1, utterance, chunk, first, sent=1.0)
        await websocket.send_bytes(binary.encode_frames(spoken))
        if chunk == 0:
            await _tell(websocket, "said", utterance=utterance, **SAID)
        await asyncio.sleep(0.1)
    await _tell(websocket, "ended", utterance=utterance, frames=frames)


async def _tell(websocket, kind, **fields):
    await websocket.send_text(json.dumps({"type": kind} | fields))
