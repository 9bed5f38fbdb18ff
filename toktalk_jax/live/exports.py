"""POST /export/KIND: frames that a client kept, as a file for another program.

KIND is csv (Live Link Face), glb, npz or usd. The body is raw motion, little-endian f32
[T, 56], of at most `MAX_S`; the answer is the file. Origin and token are checked as for
the WebSocket. An error is JSON {"error": text}: 400 no such motion, 401 token, 403
origin, 404 kind, 408 body too slow, 413 too long, 415 another content type, 501 what
this server lacks for it, 503 not now: try again after Retry-After seconds.
"""

import asyncio
import pathlib
import tempfile

import numpy as np
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from toktalk_jax import motion as mo
from toktalk_jax import takes
from toktalk_jax.export import write
from toktalk_jax.flame import arkit
from toktalk_jax.live import clip, door

KINDS = {
    "csv": "text/csv; charset=utf-8",
    "glb": "model/gltf-binary",
    "npz": "application/octet-stream",
    "usd": "application/octet-stream",
}
MAX_S = 600
MAX_BYTES = MAX_S * mo.FPS * mo.F * 4
BODY_S, RETRY_S = 20.0, 2
MOST_BODIES = 4  # that come at once, each of `MAX_BYTES` perhaps


class Refused(Exception):
    """A request that is not answered with a file: status, and text of the error."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


class Exports:
    """One file at a time, made in a thread of its own: live chunks come first."""

    def __init__(self, room):
        """Of the room's face."""
        self.room, self._busy, self._bodies = room, False, 0

    async def answer(self, request):
        """Starlette's endpoint."""
        kind = request.path_params["kind"]
        try:
            self._check(request, kind)
            motion = _motion(await self._received(request))
            data = await self._made(kind, motion)
        except Refused as refused:
            headers = {"Retry-After": str(RETRY_S)} if refused.status == 503 else {}
            told = {"error": str(refused)}
            return JSONResponse(told, refused.status, headers)
        headers = {
            "Content-Disposition": f'attachment; filename="toktalk.{kind}"',
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }
        return Response(data, media_type=KINDS[kind], headers=headers)

    def _check(self, request, kind):
        room, headers = self.room, request.headers
        origins, token = room.options.origins, room.options.token
        if refusal := door.refusal(headers, [], origins, token):
            room.metrics.rejects.labels(refusal[1]).inc()
            raise Refused(refusal[0], f"refused by {refusal[1]}")
        if kind not in KINDS:
            raise Refused(404, f"expected a kind of {list(KINDS)}")
        told = headers.get("content-type", "application/octet-stream")
        if told.split(";")[0].strip().lower() != "application/octet-stream":
            raise Refused(415, "expected application/octet-stream")
        if room.state != "ready":
            raise Refused(503, room.state)
        if room.engine.face is None:
            raise Refused(501, "this server has no head of its face model")

    async def _received(self, request):
        if self._bodies >= MOST_BODIES:
            raise Refused(503, "other files are asked for")
        self._bodies += 1
        try:
            return await _body(request)
        finally:
            self._bodies -= 1

    async def _made(self, kind, motion):
        if self._busy:
            raise Refused(503, "another file is being made")
        self._busy = True
        try:
            return await self.room.export(make, self.room.engine, kind, motion)
        except ImportError as error:
            raise Refused(501, str(error)) from None
        finally:
            self._busy = False


async def _body(request):
    """The body's bytes; none is read beyond the limit.

    Raises:
      Refused: too long, too slow, or cut off.
    """
    long, body = f"more than {MAX_S} s of motion", bytearray()
    told = request.headers.get("content-length", "0")
    if told.isascii() and told.isdigit() and int(told) > MAX_BYTES:
        raise Refused(413, long)
    try:
        async with asyncio.timeout(BODY_S):
            async for piece in request.stream():
                body += piece
                if len(body) > MAX_BYTES:
                    raise Refused(413, long)
    except TimeoutError:
        raise Refused(408, f"the body did not come within {BODY_S} s") from None
    except ClientDisconnect:
        raise Refused(400, "the body was cut off") from None
    return bytes(body)


def _motion(body):
    """[T, 56] f32 of a body.

    Raises:
      Refused: it is no motion.
    """
    if not body or len(body) % (4 * mo.F):
        raise Refused(
            400, f"{len(body)} bytes are no frames of {mo.F} f32 coefficients"
        )
    motion = np.frombuffer(body, "<f4").reshape(-1, mo.F)
    if not np.isfinite(motion).all() or np.abs(motion).max() > clip.MOST:
        raise Refused(400, "motion holds NaN, Inf or values that no face takes")
    return motion


def make(engine, kind, motion):
    """Bytes of the file.

    Raises:
      ImportError: a package of the format is not installed.
    """
    dataset, face = engine.bundle.dataset, engine.face
    weights = None
    if f".{kind}" in write.WITH_WEIGHTS:
        weights = arkit.to_arkit(face.rig, motion)
    take = takes.Take(
        *(motion, mo.FPS, dataset["head_joint"], dataset["face_model"]),
        *(None, None, mo.SAMPLE_RATE, {"checkpoint": engine.bundle.meta["hash"]}),
    )
    with tempfile.TemporaryDirectory(prefix="toktalk-") as folder:
        path = pathlib.Path(folder) / f"take.{kind}"
        write.write(path, take, face.head, weights)
        return path.read_bytes()
