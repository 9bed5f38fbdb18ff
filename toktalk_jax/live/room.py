"""What all connections of a server share: slots, state, engine, scheduler."""

import asyncio
import concurrent.futures
import dataclasses
import logging
import time

from toktalk_jax.live.metrics import Metrics
from toktalk_jax.live.scheduler import Scheduler
from toktalk_jax.live.session import Limits

LOG = logging.getLogger("toktalk_jax.live")


@dataclasses.dataclass(frozen=True)
class Options:
    """How a server is run.

    Attributes:
      max_sessions; limits: per session; drain_s: for utterances at SIGTERM.
      token: "" if none is needed; origins: allowed ones.
    """

    max_sessions: int = 8
    limits: Limits = Limits()
    drain_s: float = 10.0
    token: str = ""
    origins: frozenset = frozenset()


class Room:
    """The server's state.

    Attributes:
      state: "starting", "ready", "draining" or "failed"; why: of a failure.
      open: {session number: connection}; kept: {key: what a cut session left}.
    """

    def __init__(self, engine, options):
        """Nothing is compiled until `prepare`."""
        self.engine, self.options = engine, options
        self.metrics = Metrics()
        self.state, self.why = "starting", ""
        self.open, self.kept = {}, {}
        self._numbers = 0
        self._stop_counting = None
        self.scheduler = Scheduler(engine, self.metrics)
        self._threads = {
            name: concurrent.futures.ThreadPoolExecutor(1, name)
            for name in ("beside", "words", "sound", "export")
        }

    async def prepare(self):
        """Compile and self-test; then ready, or failed with a reason."""
        begin = time.monotonic()
        try:
            steps = self.engine.prepare()
            while await self.scheduler.call(next, steps, None):
                pass
        except Exception as error:  # of weights, devices and compilers
            self.state, self.why = "failed", f"{type(error).__name__}: {error}"
            LOG.error("not ready: %s", self.why)
            return
        self._stop_counting = self.metrics.watch_compiles()
        if self.state == "starting":
            self.state = "ready"
        LOG.info("ready after %.1f s", time.monotonic() - begin)

    async def beside(self, function, *arguments):
        """Run what is quick in a thread beside the solver's: tokens, new rows."""
        return await self._run("beside", function, *arguments)

    async def words(self, function, *arguments):
        """Run the synthesizer up to its states, a sentence at a time."""
        return await self._run("words", function, *arguments)

    async def sound(self, function, *arguments):
        """Decode the sound of a sentence."""
        return await self._run("sound", function, *arguments)

    async def export(self, function, *arguments):
        """Make a file: seconds, perhaps a minute."""
        return await self._run("export", function, *arguments)

    async def _run(self, name, function, *arguments):
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads[name], function, *arguments)

    def refuses(self):
        """Why no session is admitted now, for `busy`; else empty."""
        if self.state != "ready":
            return self.state
        if len(self.open) >= self.options.max_sessions:
            return "sessions"
        chunk_s = self.engine.offer.settings.wire()["chunk_s"]
        return "overloaded" if self.scheduler.waited_s > 2 * chunk_s else ""

    def reserve(self, connection):
        """Take a slot, before anything is awaited; returns the session's number."""
        self._numbers += 1
        self.open[self._numbers] = connection
        self.metrics.opened.inc()
        self.metrics.sessions.set(len(self.open))
        return self._numbers

    def release(self, number):
        """Give a slot back."""
        del self.open[number]
        self.metrics.sessions.set(len(self.open))

    def keep(self, key, left):
        """Keep what a cut session left for `resume_s`; few, the oldest go first."""
        self.kept[key] = left
        while len(self.kept) > self.options.max_sessions:
            self.kept.pop(next(iter(self.kept)))
        later = asyncio.get_running_loop().call_later
        later(self.options.limits.resume_s, self.kept.pop, key, None)

    async def drain(self):
        """Refuse newcomers, let utterances end within `drain_s`, close the rest."""
        self.state = "draining"
        for connection in list(self.open.values()):
            connection.stop()
        until = time.monotonic() + self.options.drain_s
        while self.open and time.monotonic() < until:
            await asyncio.sleep(0.02)

    def close(self):
        """End the threads and the counting."""
        if self._stop_counting:
            self._stop_counting()
        for thread in self._threads.values():
            thread.shutdown(wait=False, cancel_futures=True)
