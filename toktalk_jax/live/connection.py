"""One client's socket: what it says, what it is told, when it has to go.

Four coroutines: `_read` takes messages and answers controls at once, `Speaker.run`
turns input into frames, `_write` sends the outbox, `_watch` keeps the time. Whichever
ends first ends the session.
"""

import asyncio
import collections
import dataclasses
import logging
import secrets
import time

from starlette.websockets import WebSocketDisconnect

from toktalk_jax import motion as mo
from toktalk_jax.live import binary, hello, protocol, session
from toktalk_jax.live.outbox import Outbox
from toktalk_jax.live.protocol import ProtocolError
from toktalk_jax.live.speaker import Item, Speaker, State

LOG = logging.getLogger("toktalk_jax.live")
CLOSE_S = 1.0  # for a client to take its bye; then the socket is dropped
KEPT_MESSAGES = 16  # of frames sent, for an eased return from the one on show
MAX_ITEMS = 1024  # input messages that wait, however short they are


class Over(Exception):
    """The session ends: bye's reason, the socket's code."""

    def __init__(self, reason, code=1000):
        super().__init__(reason)
        self.reason, self.code = reason, code


class Connection:
    """A session's socket.

    Attributes:
      state: `speaker.State`, None before the hello.
    """

    def __init__(self, socket, room):
        """`socket`: Starlette's, accepted; `room`: what connections share."""
        self.socket, self.room = socket, room
        self.limits = room.options.limits
        self.state = self.speaker = None
        self.outputs = ()
        self.outbox = Outbox(self.limits.output_s)
        self.counts = collections.Counter()
        self._opened = self._heard_at = time.monotonic()
        self._stopping = False
        self._cancels = collections.deque()

    def now(self):
        """Milliseconds since ready."""
        return 1e3 * (time.perf_counter() - self.state.begun)

    def stop(self):
        """The server drains: no more input; end when what came is said."""
        self._stopping = True
        if self.speaker:
            self.speaker.stop()

    async def serve(self, number):
        """From hello to bye."""
        try:
            await self._greet(number)
            await self._live()
        except Over as over:
            await self._bye(over)
        except OverflowError:
            await self._bye(Over("stalled", 1008))
        except ProtocolError as error:
            self.room.metrics.errors.labels(error.code).inc()
            await self._close(1008, protocol.encode("error", error.wire()))
        except Exception as error:  # a fault of ours: this session ends, others live
            LOG.error("session %d: %s", number, type(error).__name__, exc_info=error)
            told = ProtocolError(
                "internal", "a fault in the server; open a new session"
            )
            self.room.metrics.errors.labels("internal").inc()
            await self._close(1011, protocol.encode("error", told.wire()))
        finally:
            self.room.metrics.dropped.inc(self.outbox.dropped_s)

    async def _greet(self, number):
        try:
            async with asyncio.timeout(self.limits.hello_s):
                kind, data = await self._receive()
        except TimeoutError:
            text = f"no hello within {self.limits.hello_s} s"
            raise ProtocolError("no_hello", text) from None
        if kind != "text":
            raise ProtocolError("no_hello", "the first message must be hello")
        message, offer = protocol.parse(data), self.room.engine.offer
        form, seed, key, self.outputs = hello.read(message, offer)
        state = self.room.kept.get(key) if key else None
        if key and (state is None or state.session.form != form):
            raise ProtocolError("bad_hello", "resume: no session of that key and input")
        before = state.session.settings if state else offer.settings
        try:
            settings = protocol.settings(message, before, offer)
        except ProtocolError as error:
            raise ProtocolError("bad_hello", str(error)) from None
        if state is None:
            listening = session.Session(number, form, settings, seed)
            state = State(listening, time.perf_counter())
        else:
            del self.room.kept[key]
            state.session = dataclasses.replace(
                state.session, number=number, settings=settings
            )
        self.state = state
        self.speaker = Speaker(state, self.room, self.outbox, self.now, self._refused)
        self.outbox.tell([("ready", self._ready())])

    def _ready(self):
        engine, listening = self.room.engine, self.state.session
        dataset, meta = engine.bundle.dataset, engine.bundle.meta
        model = {"hash": meta["hash"], "fps": mo.FPS, "coefficients": mo.F}
        model |= {k: dataset.get(k) for k in ("face_model", "head_joint")}
        expected = {"utterance": listening.receiving, "expected": listening.sequence}
        return {
            "version": protocol.VERSION,
            "session": listening.number,
            **expected,
            "model": model,
            **engine.offer.wire(),
            "limits": dataclasses.asdict(self.limits),
            "columns": protocol.columns(self.outputs),
            "settings": listening.settings.wire(),
        }

    async def _live(self):
        sides = (self._read, self._speak, self._write, self._watch)
        tasks = {asyncio.create_task(side()) for side in sides}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _speak(self):
        if self._stopping:
            self.speaker.stop()
        await self.speaker.run()
        raise Over("draining", 1012)

    # --- listening -----------------------------------------------------------------

    async def _receive(self):
        message = await self.socket.receive()
        self._heard_at = time.monotonic()
        if message["type"] == "websocket.disconnect":
            raise Over("gone")
        text = message.get("text")
        return ("text", text) if text is not None else ("bytes", message["bytes"])

    async def _read(self):
        while True:
            kind, data = await self._receive()
            try:
                if kind == "text":
                    self._control(protocol.parse(data))
                elif not self._stopping:
                    self._input(data)
            except ProtocolError as error:
                self._refused(error)

    def _refused(self, error):
        if isinstance(error, session.Refused):
            self.state.session = error.session
        self.counts["errors"] += 1
        self.room.metrics.errors.labels(error.code).inc()
        self.outbox.tell([("error", error.wire())])
        if self.counts["errors"] > self.limits.errors:
            raise ProtocolError("too_many_errors", f"more than {self.limits.errors}")

    def _input(self, data):
        state, came = self.state, self.now()
        form = state.session.form
        utterance, sequence, units = binary.decode_input(data, form)
        state.session, used, messages = session.take(
            *(state.session, utterance, sequence, len(units) / form.rate_hz),
            *(self.limits, self._full),
        )
        self.outbox.tell(messages)
        if used:
            self.speaker.put(Item(utterance, units, came))

    @property
    def _full(self):
        return len(self.state.inbox) >= MAX_ITEMS

    def _check_room(self):
        if self._full:
            text = f"{MAX_ITEMS} messages wait to be heard"
            raise session.overrun(self.state.session, text)

    def _control(self, message):
        kind = message["type"]
        if kind == "say":
            self._say(protocol.said(message, self.state.session.form))
        elif kind == "set":
            self._set(message)
        elif kind == "cancel":
            self._cancel(*protocol.cancel(message))
        elif kind == "end":
            self._check_room()
            self.state.session, utterance = session.end(self.state.session)
            self.speaker.put(Item(utterance, None, self.now()))
        elif kind == "stats":
            counts = {k: self.counts[k] for k in ("chunks", "late", "held", "errors")}
            counts |= self.state.session.waits
            counts |= {"dropped_s": self.outbox.dropped_s}
            self.outbox.tell([("stats", counts)])
        elif kind == "bye":
            raise Over("asked")
        else:
            text = "type: expected say, set, cancel, end, stats or bye"
            raise ProtocolError("bad_message", text)

    def _say(self, text):
        if self._stopping:
            return
        self._check_room()
        self.state.session = session.say(self.state.session, text, self.limits)
        utterance = self.state.session.receiving
        self.speaker.put(Item(utterance, text, self.now()))

    def _set(self, message):
        before, offer = self.state.session.settings, self.room.engine.offer
        settings = protocol.change(message, before, offer)
        self.state.session = dataclasses.replace(self.state.session, settings=settings)
        self.state.asked = True
        if self.state.speech is None:
            self.speaker.answer(settings)

    def _cancel(self, utterance, frame):
        came = time.perf_counter()
        listening, over, messages = session.cancel(
            self.state.session, utterance, self.limits
        )
        self._cancels.append(came)
        self.state.session = listening
        # The answer goes before the eased return that the speaker puts.
        self.outbox.forget(over)
        self.outbox.tell(messages)
        self.speaker.cancel(over, frame)

    # --- sending -------------------------------------------------------------------

    async def _write(self):
        while True:
            await self._write_one()

    async def _write_one(self):
        item = await self.outbox.get()
        try:
            if isinstance(item, str):
                await self.socket.send_text(item)
            elif isinstance(item, binary.Sound):
                await self.socket.send_bytes(binary.encode_sound(item))
            else:
                await self._write_frames(item)
        except asyncio.CancelledError:
            self.outbox.put_back(item)  # the session ends, and says what is left
            raise
        except (OSError, RuntimeError, WebSocketDisconnect):
            raise Over("gone") from None
        if isinstance(item, str) and item.startswith('{"type": "cancelled"'):
            spent = time.perf_counter() - self._cancels.popleft()
            self.room.metrics.cancel_ms.observe(1e3 * spent)

    async def _write_frames(self, frames):
        """Send frames; kept for an eased return, before anything is awaited."""
        state = self.state
        keep = [f for f in state.shown if f.utterance == frames.utterance]
        state.shown = [*keep, frames][-KEPT_MESSAGES:]
        if "arkit" in self.outputs:
            weights = await self.room.beside(self.room.engine.arkit, frames.motion)
            frames = dataclasses.replace(frames, arkit=weights)
        data = binary.encode_frames(self._stamped(frames), self.outputs)
        await self.socket.send_bytes(data)
        if not frames.flags & binary.REST:
            self.speaker.reached("sent", frames.utterance)

    def _stamped(self, frames):
        """The frames as they go out now; counted."""
        now, metrics = self.now(), self.room.metrics
        late = now > frames.deadline
        flags = frames.flags | (binary.LATE if late else 0)
        frames = dataclasses.replace(frames, sent=now, flags=flags)
        if not flags & binary.REST:
            held = bool(flags & binary.HELD)
            metrics.chunks.inc()
            metrics.late.inc(late)
            metrics.held.inc(held)
            self.counts.update(chunks=1, late=late, held=held)
        return frames

    # --- time and the end ----------------------------------------------------------

    async def _watch(self):
        told, limits = set(), self.limits
        while True:
            await asyncio.sleep(min(0.25, limits.warn_s / 4))
            now = time.monotonic()
            if self.speaker.says:  # longer, perhaps, than a message is waited for
                self._heard_at = now
            left = {
                "idle": limits.idle_s - (now - self._heard_at),
                "duration": limits.max_s - (now - self._opened),
            }
            for reason, seconds in left.items():
                if seconds > limits.warn_s:
                    told.discard(reason)
                elif reason not in told:
                    told.add(reason)
                    warning = {"reason": reason, "closes_in_s": max(seconds, 0.0)}
                    self.outbox.tell([("warning", warning)])
                # Cut between two pieces of work, so that it can be taken up there.
                if seconds < -CLOSE_S or (seconds <= 0 and not self.speaker.busy):
                    raise Over(reason)

    async def _bye(self, over):
        if over.reason == "gone":
            return
        told = {"reason": over.reason}
        if over.reason in ("idle", "duration") and not self.speaker.busy:
            key = secrets.token_urlsafe(16)
            self.room.keep(key, self.state)
            told |= {"resume": key, "resume_s": self.limits.resume_s}
        await self._close(over.code, protocol.encode("bye", told))

    async def _close(self, code, text):
        """Send what waits, this text, and close; all within a second."""
        try:
            async with asyncio.timeout(CLOSE_S):
                while len(self.outbox):
                    await self._write_one()
                await self.socket.send_text(text)
                await self.socket.close(code)
        except (TimeoutError, Over, OSError, RuntimeError, WebSocketDisconnect):
            pass  # it left, or does not read
