"""The removal of a version for the room of another one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable

from shardcast.log_fields import about
from shardcast.policy.eviction import PARTIAL
from shardcast.protocol.wire import version_name
from shardcast.store.aside_version import AsideVersion
from shardcast.store.disk_usage import disk_space
from shardcast.store.inventory import Inventory
from shardcast.store.retirement import Retirement

log = logging.getLogger(__name__)

_SETTLING, _LOOK_AGAIN = 1.0, 0.05
"""Maximum seconds until the blocks of removed files are free, and seconds between two looks."""


class Evictor:
    """Removes versions by a decision; for the event loop."""

    def __init__(self, inventory: Inventory, retirement: Retirement) -> None:
        self._inventory = inventory
        self._retirement = retirement

    async def remove(self, key: Hashable, expected: int, why: str) -> int:
        """Remove a candidate, and wait a moment until the bytes are free.

        Args:
            key: key of the candidate.
            expected: bytes freed on the disk.
            why: the reason, for the log.

        Returns:
            Bytes no longer counted but not free, since readers or clones hold them.

        Raises:
            LocalDiskError: the candidate can't be removed.
        """
        root, usage = self._inventory.data_dir.root, self._inventory.usage
        counted = usage.total
        before = await asyncio.to_thread(disk_space, root)
        if isinstance(key, AsideVersion):
            await self._retirement.drop_aside(key, why)
        elif isinstance(key, tuple) and key[0] == PARTIAL:
            await self._retirement.drop_partial(key[1], why)
        elif isinstance(key, tuple):
            await self._retirement.drop_unlisted(key[1])
        else:
            assert isinstance(key, int)
            log.info("retired %s: %s", version_name(key), why, extra=about(version=version_name(key)))
            await self._retirement.retire(key, even_leased=self._inventory.own_line)
        deadline = asyncio.get_running_loop().time() + _SETTLING
        while True:
            # Some file systems free blocks a moment after the last name went.
            after = await asyncio.to_thread(disk_space, root)
            came_free = before.used - after.used
            if came_free >= expected or asyncio.get_running_loop().time() > deadline:
                return max(0, counted - usage.total - max(0, came_free))
            await asyncio.sleep(_LOOK_AGAIN)
