"""The live page: its files and its head, each with the headers that keep it to itself.

Nothing in it is inline and nothing comes from elsewhere, so that the policy can refuse
both. Files are read and compressed once; a browser asks again with their ETag.
"""

import asyncio
import concurrent.futures
import gzip
import hashlib
import importlib.resources
import json

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from toktalk_jax import motion as mo
from toktalk_jax.flame.assets import head_of
from toktalk_jax.live import door
from toktalk_jax.page.write import pack_head

FILES = {
    "/": ("live.html", "text/html; charset=utf-8"),
    "/static/live.js": ("live.js", "text/javascript; charset=utf-8"),
    "/static/live.css": ("live.css", "text/css; charset=utf-8"),
    "/static/microphone.js": ("microphone.js", "text/javascript; charset=utf-8"),
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'{}; "
    "img-src data: blob:; media-src blob:; worker-src 'self'; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'"
)


class Page:
    """What a server shows at `/`.

    Attributes:
      routes: Starlette's, of the page's files and its head.
    """

    def __init__(self, dataset, head="", origins=(), token=""):
        """Read the files; the head is packed in a thread meanwhile (seconds).

        Args:
          dataset: metadata of the model's: face_model, head_joint.
          head: the user's FLAME file; "" for the stand-in.
          origins: that the server allows; their WebSockets are named in the policy, for
            not every browser counts them under 'self'.
          token: that the head is given for; a user's is licensed to that user.
        """
        self._headers, self._guard = headers(origins), (frozenset(origins), token)
        beside = concurrent.futures.ThreadPoolExecutor(1, "head")
        self._head = beside.submit(self._packed, dataset, head)
        beside.shutdown(wait=False)
        bundle = importlib.resources.files("toktalk_jax.page") / "bundle"
        self.routes = [Route("/head.json", self._send_head)]
        for path, (name, kind) in FILES.items():
            file = File((bundle / name).read_bytes(), kind, self._headers)
            self.routes.append(Route(path, file.send))

    def _packed(self, dataset, head):
        return File(head_json(dataset, head), "application/json", self._headers)

    async def _send_head(self, request):
        if refusal := door.refusal(request.headers, [], *self._guard):
            status, reason = refusal
            told = {"error": f"refused by {reason}"}
            return JSONResponse(told, status, self._headers)
        try:
            file = await asyncio.wrap_future(self._head)
        except (ValueError, OSError) as error:
            return JSONResponse({"error": str(error)}, 503, self._headers)
        return await file.send(request)


class File:
    """Bytes to send, compressed once."""

    def __init__(self, data, kind, more):
        """`kind`: its media type; `more`: headers besides."""
        self._plain, self._small = data, gzip.compress(data, 6, mtime=0)
        self._tag = f'W/"{hashlib.sha256(data).hexdigest()[:32]}"'
        self._headers = {**more, "Content-Type": kind, "ETag": self._tag}
        self._headers |= {"Cache-Control": "no-cache", "Vary": "Accept-Encoding"}

    async def send(self, request):
        """Answer a request for it; 304 if the browser has it."""
        if self._tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=self._headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            encoded = {"Content-Encoding": "gzip"}
            return Response(self._small, headers=self._headers | encoded)
        return Response(self._plain, headers=self._headers)


def headers(origins):
    """Of every answer of the page."""
    sockets = [o.replace("http", "ws", 1) for o in sorted(origins) if "[" not in o]
    return {
        "Content-Security-Policy": _POLICY.format("".join(f" {s}" for s in sockets)),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }


def head_json(dataset, path):
    """The head that the page poses, as its reader (`source/src/data.js`) takes it.

    Raises:
      ValueError, OSError: the head is not the model's, or cannot be read.
    """
    packed = pack_head(head_of(dataset, path), dataset.get("head_joint", "neck"))
    return json.dumps({"fps": mo.FPS, **packed}).encode()
