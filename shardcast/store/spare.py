"""A few spare blocks, for the node's own small files on a full disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from shardcast.concurrency import in_thread
from shardcast.disk_errors import is_full
from shardcast.errors import LocalDiskError
from shardcast.open_files import close
from shardcast.temporary_files import create_private

T = TypeVar("T")

_SIZE = 128 * 1024
"""Bytes: a list, the records and the manifest of an ordinary version need some tens of kilobytes."""


class Spare:
    """A file kept only to be removed for room, used by one task at a time.

    On a full disk, a node without this reserve could not write a shorter list, and so could not remove a
    version to make room.
    """

    def __init__(self, file: Path, size: int = _SIZE) -> None:
        self._file, self._size = file, size

    def keep(self) -> None:
        """Make a missing file where the disk has room; blocks on the disk."""
        with contextlib.suppress(OSError):
            if self._file.exists() and self._file.stat().st_blocks:
                return
            self._file.unlink(missing_ok=True)
            descriptor = create_private(self._file)
            try:
                os.posix_fallocate(descriptor, 0, self._size)
            except OSError:
                self._file.unlink(missing_ok=True)
            finally:
                close(descriptor)

    def give(self) -> bool:
        """Remove the file, and return whether there was one; blocks on the disk."""
        try:
            self._file.unlink()
        except OSError:
            return False
        return True

    async def lent_to(self, work: Callable[[], Awaitable[T]]) -> T:
        """Await ``work`` on small files; on a full disk once more, with the file's blocks.

        Raises:
            LocalDiskError: the files could not be written.
        """
        try:
            return await work()
        except LocalDiskError as error:
            if not is_full(error) or not await in_thread(self.give):
                raise
            return await work()
