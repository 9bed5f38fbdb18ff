"""Due chunks of all sessions into batched solves, in one worker thread."""

import asyncio
import collections
import concurrent.futures
import dataclasses
import logging
import time
import weakref

import numpy as np

LOG = logging.getLogger("toktalk_jax.live")


@dataclasses.dataclass(eq=False)
class Job:
    """One chunk to solve. came: when it was due, `time.perf_counter` seconds."""

    key: object
    row: object
    tokens: np.ndarray
    came: float
    done: asyncio.Future


class Scheduler:
    """Collects jobs while the worker is busy; then takes the oldest and its like.

    No job waits for others to come: a lone session is solved alone, at once. While none
    is due, the rows that were solved get their histories for the next chunk.
    """

    def __init__(self, engine, metrics):
        """Solve with `engine.solve`, batches up to its largest."""
        self._engine, self._metrics = engine, metrics
        self._due, self.loop = collections.deque(), None
        # (key, weak reference to a row): a session that ended takes its row along. Few,
        # for where a chunk is always due nobody looks at them.
        self._solved = collections.deque(maxlen=4 * engine.batches[-1])
        self._wake = asyncio.Event()
        self._worker = concurrent.futures.ThreadPoolExecutor(1, "solve")

    @property
    def waited_s(self):
        """How long the oldest job has waited, seconds."""
        return time.perf_counter() - self._due[0].came if self._due else 0.0

    async def call(self, function, *arguments):
        """Run in the worker thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, function, *arguments)

    async def solve(self, key, row, tokens):
        """(row, motion [C, F]) of one chunk; tokens [1, C / 2, A].

        Cancelling the caller takes the job back if it was not begun.
        """
        done = asyncio.get_running_loop().create_future()
        job = Job(key, row, tokens, time.perf_counter(), done)
        self._due.append(job)
        self._wake.set()
        try:
            return await done
        finally:
            if job in self._due:
                self._due.remove(job)

    async def run(self):
        """Serve for ever; cancelled at the end."""
        self.loop = asyncio.get_running_loop()
        try:
            while True:
                await self._wake.wait()
                if batch := self._take():
                    await self._solve(batch)
                elif behind := self._behind():
                    await self._prefill(*behind)
                else:
                    self._wake.clear()
        finally:
            self._worker.shutdown(wait=False, cancel_futures=True)

    def _take(self):
        if not self._due:
            return []
        key, most = self._due[0].key, self._engine.batches[-1]
        batch = [job for job in self._due if job.key == key][:most]
        for job in batch:
            self._due.remove(job)
        return batch

    async def _solve(self, batch):
        begin = time.perf_counter()
        for job in batch:
            self._metrics.queue_seconds.observe(begin - job.came)
        try:
            tokens = np.concatenate([job.tokens for job in batch])
            found = await self.call(
                self._engine.solve, batch[0].key, [job.row for job in batch], tokens
            )
        except Exception as error:
            await self._failed(batch, error)
            return
        steps = str(batch[0].key.steps)
        spent = 1e3 * (time.perf_counter() - begin)
        self._metrics.chunk_ms.labels(steps).observe(spent)
        self._metrics.batch_rows.observe(len(batch))
        for job, row, motion in zip(batch, *found, strict=True):
            if not job.done.done():
                job.done.set_result((row, motion))
                self._solved.append((job.key, weakref.ref(row)))

    def _behind(self):
        """(key, rows that live and lack a history), at most a batch; or None."""
        alive = [(key, row) for key, ref in self._solved if (row := ref())]
        alive = [(key, row) for key, row in alive if row.history is None]
        self._solved.clear()
        if not alive:
            return None
        key, most = alive[0][0], self._engine.batches[-1]
        batch = [row for other, row in alive if other == key][:most]
        self._solved.extend((k, weakref.ref(r)) for k, r in alive if r not in batch)
        return key, batch

    async def _prefill(self, key, batch):
        try:
            await self.call(self._engine.prefill, key, batch)
        except Exception as error:  # the solve will meet it, and answer for it
            LOG.warning("no history ahead: %s", type(error).__name__)

    async def _failed(self, batch, error):
        """A batch that fails is solved row by row: only the culprit pays."""
        if len(batch) > 1:
            for job in batch:
                await self._solve([job])
        elif not batch[0].done.done():
            batch[0].done.set_exception(error)
