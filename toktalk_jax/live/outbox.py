"""What waits to be sent to one client: bounded in seconds of media, oldest lost."""

import asyncio
import collections
import dataclasses

from toktalk_jax.live.binary import Frames
from toktalk_jax.live.protocol import encode


class Outbox:
    """Texts, frames and sound, in order. Media give way when the client stalls."""

    MAX_TEXTS = 256

    def __init__(self, seconds):
        """Hold at most `seconds` of frames, and of sound."""
        self.seconds, self.dropped_s = seconds, 0.0
        self._waiting = collections.deque()
        self._ready = asyncio.Event()
        self._lost = collections.Counter()  # frames by utterance

    def put(self, item):
        """A text, `binary.Frames` or `binary.Sound`.

        Raises:
          OverflowError: more texts wait than any client that reads would leave.
        """
        self._waiting.append(item)
        self._ready.set()
        alike = [x for x in self._waiting if type(x) is type(item)]
        if isinstance(item, str):
            if len(alike) > self.MAX_TEXTS:
                raise OverflowError("the client does not read")
            return
        while sum(x.seconds for x in alike) > self.seconds:
            oldest = alike.pop(0)
            self._remove(oldest)
            if isinstance(oldest, Frames):  # what is lost of sound its numbers show
                self._lost[oldest.utterance] += len(oldest.motion)
                self.dropped_s += oldest.seconds

    def tell(self, messages):
        """Put text messages [(type, fields)]."""
        for kind, fields in messages:
            self.put(encode(kind, fields))

    def forget(self, utterance):
        """Drop all media of utterances up to this one."""
        for item in list(self._waiting):
            if not isinstance(item, str) and item.utterance <= utterance:
                self._remove(item)

    async def get(self):
        """The next item, frames with the count of those lost before."""
        while not self._waiting:
            self._ready.clear()
            await self._ready.wait()
        item = self._waiting.popleft()
        if not isinstance(item, Frames):
            return item
        return dataclasses.replace(item, dropped=self._lost[item.utterance])

    def put_back(self, item):
        """What `get` gave and nobody could send is the next again."""
        self._waiting.appendleft(item)
        self._ready.set()

    def __len__(self):
        return len(self._waiting)

    def _remove(self, item):
        self._waiting = collections.deque(x for x in self._waiting if x is not item)
