"""Lock files: other writers to a directory of blobs make them, and readers here wait."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable

from shardcast.ages import ObservedAges
from shardcast.blobs.directory.layout import Folder

LOCK = ".LOCK"
_POLL = 1.0
"""Seconds between two looks at a lock."""


def lock_files(folder: Folder, digest: str) -> tuple[str, str]:
    """Return the paths of a blob's locks: of its folder, and of the blob."""
    return os.path.join(folder.parent(digest), LOCK), folder.path(digest) + LOCK  # noqa: PTH118


class ExternalLocks:
    """The locks of other programs, valid for a bounded time after their last touch."""

    def __init__(
        self,
        seconds: float,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Respect a lock for ``seconds`` after its last touch.

        A lock with a time in the future holds for as long after its first sighting. ``clock`` is in seconds
        since 1970, ``steady`` is monotonic.
        """
        self._seconds, self._sleep = seconds, sleep
        self._ages = ObservedAges(clock, steady)

    def is_held(self, lock: str) -> bool:
        """Return whether a lock exists and was touched less than the bound ago."""
        try:
            touched = os.stat(lock).st_mtime  # noqa: PTH116
        except OSError:
            self._ages.forget(lock)
            return False
        return self._ages.age(lock, touched) <= self._seconds

    async def wait_released(self, folder: Folder, digest: str) -> None:
        """Wait until a blob's locks are gone or too old: first the folder's, then the blob's."""
        for lock in lock_files(folder, digest):
            while self.is_held(lock):
                await self._sleep(_POLL)
