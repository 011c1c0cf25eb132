"""Reads of a file that never hold the event loop up: at once from memory, else in a thread."""

from __future__ import annotations

import asyncio
import errno
import functools
import os
from pathlib import Path
from typing import BinaryIO

_CACHED_ONLY: int | None = getattr(os, "RWF_NOWAIT", None)
"""Flag of preadv(2): fail with EAGAIN instead of waiting for the disk."""


class CachedReader:
    """A reader of one file into one buffer.

    A thread for each read costs 0.1 ms of CPU time, half as much as the bytes of such a read on their way
    through TLS.

    Attributes:
        max_bytes: of one read.
    """

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        """Read at most ``max_bytes`` at a time."""
        self._file = file
        self.max_bytes = max_bytes
        self._buffer = memoryview(bytearray(max_bytes))
        self._cached_only = _CACHED_ONLY

    async def read(self, offset: int, count: int) -> memoryview:
        """Return some of the ``count`` bytes from ``offset`` on; the next read overwrites them.

        Raises:
            OSError: the file can't be read, or ends here.
        """
        part = self._buffer[:count]
        found = self._read_cached(offset, part)
        if found is None:
            found = await asyncio.to_thread(os.preadv, self._file.fileno(), [part], offset)
        if not found:
            raise OSError(errno.EIO, "the file ends too early")
        return part[:found]

    def _read_cached(self, offset: int, part: memoryview) -> int | None:
        """Read from the page cache; None where nothing is there, or the file system can't tell."""
        if self._cached_only is None:
            return None
        try:
            return os.preadv(self._file.fileno(), [part], offset, self._cached_only)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
            if not is_in_memory(os.fstat(self._file.fileno()).st_dev):
                self._cached_only = None
                return None
            self._cached_only = 0
            return self._read_cached(offset, part)


@functools.cache
def is_in_memory(device: int) -> bool:
    """Return whether a file system has its files in memory (tmpfs), so each read is one from the cache."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return False
    for mount in mounts:  # proc(5): number, parent, device, … - type, source, options
        fields, _, kind = mount.partition(" - ")
        if number in fields.split()[2:3]:
            return kind.split(" ", 1)[0] in ("tmpfs", "ramfs")
    return False
