"""The versions listed and known by the authority of a line, and the consequences for local versions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from shardcast.concurrency import in_thread
from shardcast.protocol.distribution import Listing
from shardcast.protocol.feed import KNOWN, RETIRED
from shardcast.protocol.wire import version_name
from shardcast.store.completed import CompleteVersion, read_complete
from shardcast.store.directory_writer import DirectoryWriter
from shardcast.store.filled import FilledVersions
from shardcast.store.inventory import Inventory
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.open_version import OpenVersion
from shardcast.store.retirement import Retirement


class LineVersions:
    """Lists, hides and tells of versions as the authority of their line does."""

    def __init__(
        self, inventory: Inventory, writer: DirectoryWriter, filled: FilledVersions, retirement: Retirement
    ) -> None:
        self._inventory = inventory
        self._writer = writer
        self._filled = filled
        self._retirement = retirement

    async def record_listed(
        self, listings: Iterable[Listing], highest: int | None = None, origin: str | None = None
    ) -> None:
        """Remember, durably, the authority's list. Hidden versions in the list are listed here now.

        Args:
            listings: the listed versions.
            highest: the highest number ever on the line, as told by the authority.
            origin: the origin id for a line without one, of 0.1.0.

        Raises:
            LocalDiskError: the record could not be written down.
        """
        async with self._writer.exclusive():
            record = self._inventory.line.listing(listings, highest, origin)
            if record is self._inventory.line:
                return
            await self._writer.put_record(record)
            for number in sorted(self._inventory.hidden):
                await self._reveal(number)

    async def _reveal(self, number: int) -> None:
        """List or announce a hidden version, now in the authority's list; under the lock."""
        opened = self._inventory.open.get(number)
        manifest = opened.live.manifest if opened else None
        if opened is None or manifest is None:
            return
        digest = manifest.digests[opened.listed]
        withdrawal = self._inventory.line.withdrawal(number, {digest})
        if withdrawal or self._inventory.is_provisional(number, {digest}):
            return
        if opened.finished:
            listing = Listing(manifest.version, digest, len(manifest.shards), manifest.identity)
            complete = await asyncio.to_thread(read_complete, opened.place, listing, manifest)
            await self._filled.list_locked(complete)
        else:
            self._filled.reveal(number)

    async def unlist(self, number: int) -> None:
        """Take a provisional version off the list.

        The bytes stay as a hidden open version, so nothing is fetched again if the authority lists the
        version later. A version whose single shards can't be verified is removed.

        Raises:
            LocalDiskError: the list could not be written.
        """
        inventory = self._inventory
        async with self._writer.exclusive():
            if number not in inventory.provisional:
                return
            complete = await inventory.complete.remove(number)
            inventory.holds.pinned.discard(number)
            inventory.events.add(RETIRED, version_name(number))
            if complete.manifest is not None and not complete.linked:
                self._hide(await in_thread(self._make_hidden, complete, undo=self._hide))
            else:  # an old node's, whose single shards can't be verified
                await self._retirement.remove(number, complete.place)
        await self._retirement.empty()

    def _make_hidden(self, complete: CompleteVersion) -> OpenVersion:
        """Return an open version of a complete one; blocks on the disk."""
        manifest, number = complete.manifest, complete.listing.number
        assert manifest
        digests = manifest.digests.items()
        listed = next(name for name, digest in digests if digest == complete.listing.digest)
        opened = self._filled.make(number, LiveManifest.of(manifest), listed)
        opened.finished = len(opened.verified_shards) == len(manifest.shards)
        return opened

    def _hide(self, opened: OpenVersion) -> None:
        self._filled.register(opened)
        self._inventory.hidden.add(opened.number)

    def set_known(self, listings: Mapping[int, Listing]) -> None:
        """Set the versions listed by the authority, not complete here and not withdrawn; announce changes.

        A new or changed one is announced as known, one gone from the authority's list as retired.
        """
        inventory = self._inventory
        known = {
            number: listing
            for number, listing in listings.items()
            if number not in inventory.complete
            and inventory.line.withdrawal(number, {listing.digest}) is None
        }
        before, inventory.known = inventory.known, known
        for number in sorted(before.keys() - known.keys() - inventory.complete.numbers):
            inventory.events.add(RETIRED, version_name(number))
        for number, listing in sorted(known.items()):
            if before.get(number) != listing:
                inventory.events.add(KNOWN, listing.version, listing)
