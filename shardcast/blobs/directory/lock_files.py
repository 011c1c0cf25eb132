"""Lock files, by which programs that write into a directory of blobs on their own ask its readers to wait."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable

from shardcast.ages import AgesSeen
from shardcast.blobs.directory.layout import Folder

LOCK = ".LOCK"
_POLL = 1.0


def lock_files(folder: Folder, digest: str) -> tuple[str, str]:
    """The locks that hold for a blob: the one of its whole folder, and its own."""
    return os.path.join(folder.parent(digest), LOCK), folder.path(digest) + LOCK  # noqa: PTH118


class ExternalLocks:
    """The locks that this process meets."""

    def __init__(
        self,
        seconds: float,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``seconds``: how long a lock holds from when it was last touched; one whose time lies ahead, from
        when it was first seen so."""
        self._seconds, self._sleep = seconds, sleep
        self._ages = AgesSeen(clock, steady)

    def holds(self, lock: str) -> bool:
        """Whether somebody made or touched a lock less than so many seconds ago."""
        try:
            touched = os.stat(lock).st_mtime  # noqa: PTH116
        except OSError:
            self._ages.forget(lock)
            return False
        return self._ages.age(lock, touched) <= self._seconds

    async def released(self, folder: Folder, digest: str) -> None:
        """Wait until the locks that hold for a blob are gone or too old: first the folder's, then its own."""
        for lock in lock_files(folder, digest):
            while self.holds(lock):
                await self._sleep(_POLL)
