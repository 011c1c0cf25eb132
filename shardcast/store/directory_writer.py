"""Changes of a data directory's list and records: one at a time, also on a full disk."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

from shardcast.filesystem import replace_in_thread
from shardcast.store.completed import CompleteVersion
from shardcast.store.inventory import Inventory
from shardcast.store.line_record import LineRecord
from shardcast.store.spare import Spare


async def _nothing() -> None:
    """Finish no change."""


class DirectoryWriter:
    """The only way to change the list or the records of a data directory.

    Attributes:
        lock: held during each change. A change of open versions alone needs no more than the lock.
        spare: blocks for the list and the records on a full disk.
        finish_change: carries out the rest of a failed change of line, before anything else is written.
    """

    def __init__(self, inventory: Inventory) -> None:
        self.lock = asyncio.Lock()
        self.spare = Spare(inventory.data_dir.spare)
        self.finish_change: Callable[[], Awaitable[None]] = _nothing
        self._inventory = inventory

    @contextlib.asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Hold the lock during a change of the list or the records; first finish a failed change of line.

        Raises:
            LocalDiskError: the directory at the path is another one, or a change of line can't be finished.
        """
        async with self.lock:
            self._inventory.data_dir.check_held()
            await self.finish_change()
            yield

    async def put_record(self, record: LineRecord) -> None:
        """Put the line's record on the disk, then in force; under the lock.

        Raises:
            LocalDiskError: the record could not be written.
        """
        if record != self._inventory.line:
            path = self._inventory.data_dir.line
            await self.spare.lent_to(partial(replace_in_thread, path, record.to_bytes()))
            self._inventory.line = record

    async def add_to_list(self, complete: CompleteVersion) -> None:
        """Put a complete version on the list; under the lock.

        Raises:
            LocalDiskError: the list could not be written.
        """
        await self.spare.lent_to(partial(self._inventory.complete.add, complete))

    async def remove_from_list(self, number: int) -> None:
        """Take a complete version off the list; under the lock.

        Raises:
            LocalDiskError: the list could not be written.
        """
        await self.spare.lent_to(partial(self._inventory.complete.remove, number))
