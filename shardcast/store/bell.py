"""Wakes coroutines from any thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable


class Bell:
    """Rung when something changed; who waits looks again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: set[asyncio.Future[None]] = set()

    async def until(self, so: Callable[[], bool]) -> None:
        """Wait until it is so; looks at every ring."""
        while not so():
            waiting = asyncio.get_running_loop().create_future()
            with self._lock:
                self._waiting.add(waiting)
            try:
                if so():  # it came to be between the look and the waiting
                    return
                await waiting
            finally:
                with self._lock:
                    self._waiting.discard(waiting)

    def ring(self) -> None:
        """Something changed."""
        if self._waiting:
            with self._lock:
                waiting, self._waiting = self._waiting, set()
            for one in waiting:
                try:
                    one.get_loop().call_soon_threadsafe(_wake, one)
                except RuntimeError:
                    pass  # its loop has ended, and nobody waits any more


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
