"""The ways for a version to go: retired, dropped, discarded."""

from __future__ import annotations

import logging
from collections.abc import Collection

from shardcast.concurrency import in_thread
from shardcast.errors import LocalDiskError, ShardcastError, VersionAborted
from shardcast.log_fields import about
from shardcast.protocol.distribution import Withdrawal
from shardcast.protocol.feed import ABORTED, RETIRED
from shardcast.protocol.wire import version_name
from shardcast.store.aside_version import AsideVersion
from shardcast.store.directory_writer import DirectoryWriter
from shardcast.store.inventory import Inventory
from shardcast.store.line_record import withdrawn_error
from shardcast.store.removing import Remover
from shardcast.store.space_ledger import SpaceLedger
from shardcast.store.version_place import VersionPlace

log = logging.getLogger(__name__)


class Retirement:
    """Takes versions off the list and off the disk.

    Running answers end well: they have the files open.
    """

    def __init__(self, inventory: Inventory, writer: DirectoryWriter, ledger: SpaceLedger) -> None:
        self._inventory = inventory
        self._writer = writer
        self._ledger = ledger
        self._remover = Remover(inventory.data_dir, inventory.usage)

    async def retire(self, number: int, *, even_pinned: bool = False, even_leased: bool = True) -> None:
        """Take a version off the list, then remove its files.

        A version pinned or leased just now stays, unless ``even_pinned`` or ``even_leased``.

        Raises:
            LocalDiskError: the list could not be written.
        """
        here, holds = self._inventory.complete, self._inventory.holds
        meant = here.get(version_name(number))
        async with self._writer.exclusive():
            found = here.get(version_name(number))
            # After a change of line the number is another version's.
            if found is None or found is not meant or (number in holds.pinned and not even_pinned):
                return
            if number in holds.leased() and not even_leased:
                return
            await self._writer.remove_from_list(number)
            holds.pinned.discard(number)
            self._inventory.events.add(RETIRED, version_name(number))
            await self.remove(number, found.place)
        await self.empty()

    async def drop_unlisted(self, number: int) -> None:
        """Remove the files of an unlisted local version.

        Raises:
            LocalDiskError: the directory at the path is another one, or an open version can't be removed.
        """
        async with self._writer.exclusive():
            withdrawn = self._inventory.withdrawn.pop(number, None)
            if withdrawn is not None:
                log.info(
                    "removed the files of %s, which was withdrawn",
                    version_name(number),
                    extra=about(version=version_name(number)),
                )
                await self.remove(number, withdrawn.place)
            elif number in self._inventory.hidden:
                log.info(
                    "removed %s: the first-named server does not list it",
                    version_name(number),
                    extra=about(version=version_name(number)),
                )
                await self.discard_locked(number)
        await self.empty()

    async def drop_partial(self, number: int, why: str) -> None:
        """Remove the local part of a version not being fetched.

        Raises:
            LocalDiskError: the part can't be removed.
        """
        async with self._writer.exclusive():
            if number in self._inventory.open and not self._ledger.is_fetched(number):
                log.info(
                    "removed the local part of %s: %s",
                    version_name(number),
                    why,
                    extra=about(version=version_name(number)),
                )
                await self.discard_locked(number)

    async def drop_aside(self, version: AsideVersion, why: str) -> None:
        """Remove a version of another line, if still aside.

        Raises:
            OSError: the version can't be removed.
        """
        async with self._writer.exclusive():
            if self._inventory.aside.get(version.place) is version:
                await self._inventory.aside.drop(version, why)

    async def discard(self, number: int, withdrawal: Withdrawal | None = None) -> None:
        """Abort an open version, perhaps because of a ``withdrawal``, and remove the files.

        A running transfer fails with the next shard.

        Raises:
            LocalDiskError: the files can't be removed.
        """
        async with self._writer.lock:
            await self.discard_locked(number, withdrawal)

    async def discard_locked(self, number: int, withdrawal: Withdrawal | None = None) -> None:
        """Discard as ``discard`` does, under the lock: another version may get the place next."""
        opened, version = self._inventory.open.pop(number, None), version_name(number)
        if opened is None:
            return
        error: ShardcastError
        if withdrawal is None and opened.space.refused is not None:
            error = opened.space.refused
            opened.live.abort("a server had no room for it")
        elif withdrawal is None:
            error = VersionAborted(f"{version} was aborted here before it was complete")
            opened.live.abort("its publisher or a server gave it up")
        else:
            error = withdrawn_error(withdrawal)
            opened.live.abort(f"withdrawn: {withdrawal.reason}")
        if number not in self._inventory.hidden:
            self._inventory.events.add(ABORTED, version)
        self._inventory.hidden.discard(number)
        try:
            await in_thread(opened.stop, error)
            await in_thread(opened.discard)
            self._inventory.usage.drop(opened.place.folder)
        except LocalDiskError:
            if self._inventory.data_dir.held:
                raise
            # The next start on the directory removes the files.
        self._forget(number)

    async def remove(self, number: int, place: VersionPlace) -> None:
        """Remove an unlisted version, in one rename; under the lock. ``empty`` frees the bytes."""
        await self._remover.remove(place)
        self._forget(number)

    async def remove_again(self, used: Collection[VersionPlace]) -> None:
        """Repeat failed removals, except at places ``used`` again; under the lock."""
        await self._remover.again(used)

    async def empty(self) -> None:
        """Free the bytes of removed versions."""
        await self._remover.empty()

    def _forget(self, number: int) -> None:
        """Drop claims and holds of a number without anything left here."""
        if not self._inventory.has(number):
            self._ledger.drop(number)
            self._inventory.holds.forget(number)
