"""Lock files, by which programs that write into a directory of blobs on their own ask its readers to wait."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from shardcast.store.blobs.layout import Folder

LOCK = ".LOCK"
_POLL = 1.0


def lock_files(folder: Folder, digest: str) -> tuple[str, str]:
    """The locks that hold for a blob: the one of its whole folder, and its own."""
    return os.path.join(folder.parent(digest), LOCK), folder.path(digest) + LOCK  # noqa: PTH118


def is_locked(lock: str, seconds: float, now: float) -> bool:
    """Whether somebody made or touched a lock less than so many seconds ago."""
    try:
        return now - os.stat(lock).st_mtime <= seconds  # noqa: PTH116
    except OSError:
        return False


async def unlocked(
    folder: Folder, digest: str, seconds: float, clock: Callable[[], float] = time.time
) -> None:
    """Wait until the locks that hold for a blob are gone or older than so many seconds: first the folder's,
    then its own."""
    for lock in lock_files(folder, digest):
        while is_locked(lock, seconds, clock()):  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(_POLL)
