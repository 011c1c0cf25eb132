"""A few spare blocks, so that the node's own small files can be written where the disk is full."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from shardcast.concurrency import in_thread
from shardcast.errors import LocalDiskError
from shardcast.filesystem import close, create_private, is_full

T = TypeVar("T")

_SIZE = 128 * 1024
"""Bytes: a list, the records and the manifest of an ordinary version need some tens of kilobytes."""


class Spare:
    """A file that is there only to be removed. Without it a full disk would keep a node from taking a version
    off its list, which makes room. Used by one task at a time."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def keep(self) -> None:
        """Have it there, if there is room; blocks on the disk."""
        with contextlib.suppress(OSError):
            if self._file.exists() and self._file.stat().st_blocks:
                return
            self._file.unlink(missing_ok=True)
            descriptor = create_private(self._file)
            try:
                os.posix_fallocate(descriptor, 0, _SIZE)
            except OSError:
                self._file.unlink(missing_ok=True)
            finally:
                close(descriptor)

    def give(self) -> bool:
        """Remove it; returns whether it was there. Blocks on the disk."""
        try:
            self._file.unlink()
        except OSError:
            return False
        return True

    async def lent_to(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do what writes small files, once more with its blocks where the disk is full.

        Raises:
            LocalDiskError: they could not be written.
        """
        try:
            return await work()
        except LocalDiskError as error:
            if not is_full(error) or not await in_thread(self.give):
                raise
            return await work()
