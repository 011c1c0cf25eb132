"""Blobs that are expected: those that are arriving here now, and those that somebody promised."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator

PROMISE_SECONDS = 600.0
"""How long a promise holds."""


class Uploads:
    """The blobs that are arriving through this process, each through one request."""

    def __init__(self) -> None:
        self._ends: dict[str, asyncio.Event] = {}

    def has(self, digest: str) -> bool:
        return digest in self._ends

    @contextlib.contextmanager
    def arriving(self, digest: str) -> Iterator[None]:
        """Entered while a blob arrives."""
        ended = self._ends[digest] = asyncio.Event()
        try:
            yield
        finally:
            del self._ends[digest]
            ended.set()

    async def ended(self, digest: str) -> None:
        """Wait until the blob isn't arriving, or no more."""
        while ending := self._ends.get(digest):
            await ending.wait()


class Promises:
    """Blobs that somebody said will come, for a while."""

    def __init__(self, seconds: float = PROMISE_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._until: OrderedDict[str, float] = OrderedDict()  # the next to end comes first
        self._kept: dict[str, asyncio.Event] = {}

    def add(self, digest: str) -> None:
        """The blob will come, it was said just now."""
        self._let_go()
        self._until[digest] = self._clock() + self.seconds
        self._until.move_to_end(digest)

    def has(self, digest: str) -> bool:
        self._let_go()
        return digest in self._until

    def keep(self, digest: str) -> None:
        """The blob has come."""
        self._until.pop(digest, None)
        if digest in self._kept:
            self._kept.pop(digest).set()

    async def kept(self, digest: str, seconds: float) -> None:
        """Wait until a blob has come, so many seconds at the most."""
        event = self._kept.setdefault(digest, asyncio.Event())
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            pass

    def _let_go(self) -> None:
        now = self._clock()
        while self._until and next(iter(self._until.values())) <= now:
            digest, _ = self._until.popitem(last=False)
            self._kept.pop(digest, asyncio.Event()).set()
