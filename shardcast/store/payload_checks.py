"""Checks of payloads published without a copy, after a change of their files' identities."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import replace

from shardcast.log_fields import about
from shardcast.protocol.wire import version_name, version_number
from shardcast.store.directory_writer import DirectoryWriter
from shardcast.store.inventory import Inventory
from shardcast.store.recovery import recall_linked
from shardcast.store.retirement import Retirement

log = logging.getLogger(__name__)


class PayloadChecks:
    """Hashes payloads in doubt.

    Meanwhile their versions are not served; then a version is served again, or retired.
    """

    def __init__(self, inventory: Inventory, writer: DirectoryWriter, retirement: Retirement) -> None:
        self._inventory = inventory
        self._writer = writer
        self._retirement = retirement
        self._in_doubt: dict[int, asyncio.Future[None]] = {}

    def in_doubt(self, version: str) -> bool:
        """Return whether a version's payload is being hashed now; its shards are not served meanwhile."""
        return (version_number(version) or 0) in self._in_doubt

    def start(self, number: int) -> None:
        """Hash the payload of a version in the background, unless already under way."""
        if number not in self._in_doubt:
            task = asyncio.ensure_future(self._check(number))
            self._in_doubt[number] = task
            task.add_done_callback(lambda _: self._in_doubt.pop(number))

    def start_changed(self) -> None:
        """Hash the payloads of all versions with changed files."""
        for complete in self._inventory.complete.versions:
            if complete.payload_changed:
                self.start(complete.listing.number)

    async def _check(self, number: int) -> None:
        version, stop = version_name(number), threading.Event()
        complete = self._inventory.complete.get(version)
        try:
            if complete is None or complete.manifest is None:
                return
            linked = await asyncio.to_thread(
                recall_linked, complete.place, complete.linked, complete.manifest, stop.is_set
            )
            async with self._writer.exclusive():
                if self._inventory.complete.get(version) is not complete:
                    return
                if linked:
                    self._inventory.complete.take_up(replace(complete, linked=linked))
                    return
            log.error(
                "%s is retired: its file was changed after it was published without a copy; publish it "
                "again, or with a copy",
                version,
                extra=about(version=version),
            )
            await self._retirement.retire(number, even_pinned=True)
        except OSError as error:
            log.error(
                "%s is in doubt, and its changed file is not served before it can be read: %s",
                version,
                error,
                extra=about(version=version),
            )
        finally:
            stop.set()  # a thread that still hashes ends, also when this task was cancelled
