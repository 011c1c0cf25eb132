"""Hashing of files in a pool of threads, once for all simultaneous requests for the same file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

from shardcast.concurrency import ThreadPool, cancel, in_pool

T = TypeVar("T")

HASHING_THREADS = max(2, min(8, os.cpu_count() or 1))
"""Hashing threads of one store, for all its requests together."""


class HashingPool:
    """A pool of hashing threads, and the hashes under way; ``_shared`` is of event loops alone."""

    def __init__(self, threads: int = HASHING_THREADS) -> None:
        self._pool = ThreadPool(threads, "shardcast-hash")
        self._shared: dict[tuple[asyncio.AbstractEventLoop, Hashable], _SharedWork] = {}

    async def run(self, work: Callable[..., T], *args: object) -> T:
        """Call ``work`` in a thread of the pool, and return its result.

        After a cancellation, too, the call has ended or was never begun.
        """
        return await in_pool(self._pool, work, *args)

    async def run_shared(self, key: Hashable, begin: Callable[[], asyncio.Future[T]]) -> T:
        """Return the result of work shared by concurrent callers with the same ``key``.

        ``begin`` starts the work; cancelling the last caller cancels the work.
        """
        place = asyncio.get_running_loop(), key
        shared = self._shared.get(place)
        if shared is None:
            shared = self._shared[place] = _SharedWork(begin())
        shared.waiting += 1
        try:
            outcome: T = await asyncio.shield(shared.work)
            return outcome
        finally:
            shared.waiting -= 1
            if not shared.waiting:
                del self._shared[place]  # the next caller begins anew
                await cancel([shared.work])


@dataclass(slots=True)
class _SharedWork:
    """Running work, and the number of its waiting callers."""

    work: asyncio.Future[Any]
    waiting: int = 0
