"""The HTTP and WebSocket application around a `Room`, and how it is run and ended."""

import asyncio
import contextlib
import errno
import socket

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute

from toktalk_jax.live import door, protocol
from toktalk_jax.live.connection import Connection
from toktalk_jax.live.exports import Exports

RETRY_S = {"starting": 5.0, "draining": 10.0, "sessions": 2.0, "overloaded": 2.0}


def application(room, page=None):
    """The Starlette application; its lifespan prepares the room in the background.

    Args:
      room: what connections share; page: `pages.Page`, or None for a bare wire.
    """

    async def healthz(request):
        return JSONResponse({"alive": True})

    async def readyz(request):
        ready = room.state == "ready"
        told = {"ready": ready, "state": room.state, "why": room.why}
        return JSONResponse(told, 200 if ready else 503)

    async def metrics(request):
        return Response(room.metrics.text(), media_type="text/plain; version=0.0.4")

    async def live(websocket):
        await _live(room, websocket)

    @contextlib.asynccontextmanager
    async def lifespan(app):
        tasks = [
            asyncio.create_task(room.scheduler.run()),
            asyncio.create_task(room.prepare()),
        ]
        yield
        for task in tasks:
            task.cancel()
        room.close()

    routes = [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
        Route("/export/{kind}", Exports(room).answer, methods=["POST"]),
        WebSocketRoute("/live", live),
        *(page.routes if page else ()),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


async def _live(room, websocket):
    options, offered = room.options, websocket.scope["subprotocols"]
    refusal = door.refusal(websocket.headers, offered, options.origins, options.token)
    if refusal:
        status, reason = refusal
        room.metrics.rejects.labels(reason).inc()
        await websocket.send_denial_response(Response(reason, status))
        return
    chosen = protocol.SUBPROTOCOL if protocol.SUBPROTOCOL in offered else None
    if reason := room.refuses():
        room.metrics.rejects.labels(reason).inc()
        # Accepted first: of a refused upgrade a browser's script learns nothing.
        busy = {"reason": reason, "retry_after_s": RETRY_S.get(reason, 60.0)}
        with contextlib.suppress(OSError, RuntimeError):
            async with asyncio.timeout(1.0):
                await websocket.accept(chosen)
                await websocket.send_text(protocol.encode("busy", busy))
                await websocket.close(1013)
        return
    connection = Connection(websocket, room)
    number = room.reserve(connection)
    try:
        await websocket.accept(chosen)
        await connection.serve(number)
    finally:
        room.release(number)


class Server(uvicorn.Server):
    """uvicorn that drains: a first signal lets utterances end, a second does not."""

    def __init__(self, room, page=None, greeting=""):
        """Serve `room` and `page`; the greeting is printed once signals are heard."""
        limits = room.options.limits
        config = uvicorn.Config(
            application(room, page),
            ws="wsproto",
            ws_max_size=limits.message_bytes,
            ws_per_message_deflate=False,  # nothing to gain, and no bomb to unpack
            log_level="warning",  # its access log would hold queries
            timeout_graceful_shutdown=2,
        )
        super().__init__(config)
        self.room, self._draining, self._greeting = room, False, greeting

    async def startup(self, sockets=None):
        """As uvicorn's; tells when it is done."""
        await super().startup(sockets)
        if self._greeting:
            print(self._greeting, flush=True)

    def handle_exit(self, sig, frame):
        """SIGTERM or SIGINT; unlike uvicorn's own it leaves the exit code at 0."""
        if self._draining or not self.started:
            self.should_exit = True
            return
        self._draining = True
        asyncio.run_coroutine_threadsafe(self._drain(), asyncio.get_running_loop())

    async def _drain(self):
        await self.room.drain()
        self.should_exit = True


def listen(host, port):
    """A listening socket.

    Raises:
      OSError: the address cannot be had; says which.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # A stalled reader shows within seconds, not megabytes; then it is dropped.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 15)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listening.bind((host, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            text = f"port {port} of {host} is in use; choose another with --port"
            raise OSError(error.errno, text) from None
        raise
    return listening
