"""Expected blobs: arriving ones, and promised ones."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator

PROMISE_SECONDS = 600.0
"""Seconds of a promise's validity."""


class Uploads:
    """The blobs arriving through this process, each in one request."""

    def __init__(self) -> None:
        self._ends: dict[str, asyncio.Event] = {}

    def has(self, digest: str) -> bool:
        """Return whether a blob arrives now."""
        return digest in self._ends

    @contextlib.contextmanager
    def arriving(self, digest: str) -> Iterator[None]:
        """Count a blob as arriving while the context is entered."""
        ended = self._ends[digest] = asyncio.Event()
        try:
            yield
        finally:
            del self._ends[digest]
            ended.set()

    async def wait_until_ended(self, digest: str) -> None:
        """Wait for the end of a blob's upload; return at once if there is none."""
        while ending := self._ends.get(digest):
            await ending.wait()


class Promises:
    """Blobs promised by clients, for a while."""

    def __init__(self, seconds: float = PROMISE_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without promises; ``seconds``: how long each holds."""
        self.seconds = seconds
        self._clock = clock
        self._until: OrderedDict[str, float] = OrderedDict()  # in the order in which they end
        self._kept: dict[str, asyncio.Event] = {}

    def add(self, digest: str) -> None:
        """Count a blob as promised from now on, for ``seconds``."""
        self._expire()
        self._until[digest] = self._clock() + self.seconds
        self._until.move_to_end(digest)

    def has(self, digest: str) -> bool:
        """Return whether a blob is promised still."""
        self._expire()
        return digest in self._until

    def fulfil(self, digest: str) -> None:
        """Drop the promise of an arrived blob, and wake its readers."""
        self._until.pop(digest, None)
        if digest in self._kept:
            self._kept.pop(digest).set()

    async def wait_until_fulfilled(self, digest: str, seconds: float) -> None:
        """Wait for the arrival of a blob, or the end of its promise; at most ``seconds``."""
        event = self._kept.setdefault(digest, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()

    def _expire(self) -> None:
        """Drop the expired promises, and wake their readers."""
        now = self._clock()
        while self._until and next(iter(self._until.values())) <= now:
            digest, _ = self._until.popitem(last=False)
            self._kept.pop(digest, asyncio.Event()).set()
