"""The open versions of a data directory: begun, given room, listed once whole."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial

from shardcast.concurrency import in_thread
from shardcast.errors import LocalDiskError, TransferFailed
from shardcast.filesystem import replace_in_thread
from shardcast.protocol.distribution import Listing
from shardcast.protocol.feed import COMPLETE, OPEN
from shardcast.protocol.manifest import Manifest, Shard
from shardcast.protocol.wire import version_name, version_number
from shardcast.store.completed import CompleteVersion, read_complete
from shardcast.store.directory_writer import DirectoryWriter
from shardcast.store.disk_usage import space_of
from shardcast.store.hooks import OpenVersionHooks
from shardcast.store.inventory import Inventory
from shardcast.store.line_record import withdrawn_error
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.open_version import OpenVersion
from shardcast.store.quota import DiskQuota
from shardcast.store.retirement import Retirement
from shardcast.store.version_place import remove_version

RECEIVED_ANEW = "is received anew here, by another manifest"
"""End of the error for readers of a version by the manifest before."""


class FilledVersions:
    """Opens versions, and lists whole ones.

    Attributes:
        hooks: the calls of each open version to the directory.
    """

    def __init__(
        self,
        inventory: Inventory,
        writer: DirectoryWriter,
        *,
        quota: DiskQuota,
        retirement: Retirement,
        tidy: Callable[[], Awaitable[None]],
    ) -> None:
        """Fill an inventory; ``tidy`` is awaited after each listed version."""
        self.hooks = OpenVersionHooks(
            find=inventory.find,
            completed=self._complete,
            reserve=self.reserve,
            extend=quota.extend,
            full=quota.full,
            check_held=inventory.data_dir.check_held,
            usage=inventory.usage,
            links=inventory.data_dir.links,
        )
        self._inventory = inventory
        self._writer = writer
        self._quota = quota
        self._retirement = retirement
        self._tidy = tidy

    # How a version begins

    async def begin(
        self, number: int, live: LiveManifest | None = None, listed: str = "sha256"
    ) -> OpenVersion:
        """Open a version, like ``open``, and announce it.

        An open version with the same number gives way: its readers get an error.

        Raises:
            LocalDiskError: the version's folder can't be made.
        """
        async with self._writer.exclusive():
            before = self._inventory.open.get(number)
            make = partial(in_thread, self.make, number, live, listed, undo=self.register)
            opened = await self._writer.spare.lent_to(make)
            self.register(opened)
            if before:
                before.live.fail(TransferFailed(f"{version_name(number)} {RECEIVED_ANEW}"))
            self.reveal(number)
        return opened

    def open(self, number: int, live: LiveManifest | None = None, listed: str = "sha256") -> OpenVersion:
        """Open a version, to publish or to receive; blocks on the disk.

        Args:
            number: number of the version.
            live: manifest of a version to receive.
            listed: the algorithm of the payload digest in the list.

        Raises:
            LocalDiskError: the version's folder can't be made.
        """
        opened = self.make(number, live, listed)
        self.register(opened)
        return opened

    def make(self, number: int, live: LiveManifest | None, listed: str) -> OpenVersion:
        """Take over the folder of a version; blocks on the disk, so in a thread.

        After a failure nothing is left.

        Raises:
            LocalDiskError: the folder can't be made.
        """
        data_dir, usage = self._inventory.data_dir, self._inventory.usage
        place = data_dir.place(number)
        is_new = not place.folder.exists()
        usage.drop(place.folder)
        try:
            return OpenVersion(number, place, self.hooks, live=live, listed=listed)
        except LocalDiskError:
            if is_new and place.folder.exists() and data_dir.held:
                remove_version(place.folder)
            raise

    def register(self, opened: OpenVersion) -> None:
        """Count a version as open; called by the event loop, or before the loop runs."""
        self._inventory.withdrawn.pop(opened.number, None)  # the folder is taken over
        self._inventory.open[opened.number] = opened
        with contextlib.suppress(RuntimeError):  # loading has no loop, and nothing writes meanwhile
            opened.loop = asyncio.get_running_loop()

    def reveal(self, number: int) -> None:
        """Announce an open version in the feed; a hidden one is hidden no longer."""
        self._inventory.hidden.discard(number)
        self._inventory.events.add(OPEN, version_name(number))

    # Room

    async def check_room(self, manifest: Manifest) -> None:
        """Check for enough room for a version, before the first byte.

        Raises:
            NoRoom: even removals could not make enough.
        """
        lacking = await asyncio.to_thread(self._lacking, manifest)
        await self._quota.check(version_number(manifest.version) or 0, manifest, lacking)

    async def make_room(self, manifest: Manifest, error: OSError) -> bool:
        """Make room for a version whose beginning failed on a full disk.

        Args:
            manifest: manifest of the version.
            error: the error of the disk.

        Returns:
            Whether to try again.

        Raises:
            LocalDiskError: a version to remove can't be removed.
        """
        lacking = await asyncio.to_thread(self._lacking, manifest)
        return await self._quota.full_before(version_number(manifest.version) or 0, manifest, lacking, error)

    def _lacking(self, manifest: Manifest) -> int:
        """Return the bytes on the disk needed by a version beside linkable ones; blocks."""
        find = self._inventory.find
        shards = (shard for shard in manifest.shards if shard.sha256 is None or find(shard.sha256) is None)
        return sum(space_of(shard.size) for shard in shards)

    async def reserve(self, opened: OpenVersion, shard: Shard) -> bool:
        """Reserve room for the next shard of a version, as ``DiskQuota.reserve`` does.

        Local shards of the version are linked before any other version goes.
        """
        if opened.live.manifest and not opened.space.linked_all:
            await in_thread(opened.link_known)
            opened.space.linked_all = True
        elif not opened.space.linked_all and opened.space.space_of_next(shard):
            await in_thread(opened.files.link_shard, shard)
        return await self._quota.reserve(opened, shard, partial(opened.files.reserve_part, shard))

    # How a version becomes complete

    async def _complete(self, opened: OpenVersion, manifest: Manifest) -> None:
        """List a complete and durable version.

        Raises:
            VersionWithdrawn: the publisher took the version back meanwhile.
            LocalDiskError: the list could not be written.
        """
        number, digest = opened.number, manifest.digests[opened.listed]
        listing = Listing(manifest.version, digest, len(manifest.shards), manifest.identity)
        complete = await asyncio.to_thread(read_complete, opened.place, listing, manifest)
        async with self._writer.exclusive():
            withdrawal = self._inventory.line.withdrawal(number, complete.digests)
            if withdrawal is None:
                await self.list_locked(complete)
        if withdrawal is not None:
            await self._retirement.discard(number, withdrawal)
            raise withdrawn_error(withdrawal)
        opened.live.finish(manifest)
        await self._tidy()

    async def list_locked(self, complete: CompleteVersion) -> None:
        """List a whole local version; under the lock.

        Raises:
            LocalDiskError: the record or the list could not be written.
        """
        inventory, listing = self._inventory, complete.listing
        await asyncio.to_thread(inventory.usage.measure, complete.place.folder)  # first: it may fail
        if inventory.own_line:
            # Before the list: should this fail, the publisher removes the version's files.
            await self._writer.put_record(inventory.line.listing([listing]))
        await self._writer.add_to_list(complete)
        opened = inventory.open.pop(listing.number, None)
        if opened and complete.manifest:
            opened.live.finish(complete.manifest)
        inventory.hidden.discard(listing.number)
        inventory.known.pop(listing.number, None)
        self._quota.ledger.drop(listing.number)
        inventory.events.add(COMPLETE, listing.version, complete.listing)

    async def surveyed(self, listing: Listing, manifest: Manifest | None) -> None:
        """Keep the manifest made for a version of an old node, and list the version unless withdrawn.

        Nothing happens if the version went, or its number is another version's by now.

        Args:
            listing: the version's line in the list.
            manifest: None when the local bytes do not have the listed digest; the version goes then.

        Raises:
            LocalDiskError: the manifest or the list could not be written.
        """
        inventory = self._inventory
        place = inventory.data_dir.place(listing.number)
        async with self._writer.exclusive():
            here = inventory.complete.get(listing.version)
            if listing not in inventory.untrusted and (here is None or here.listing.digest != listing.digest):
                return  # the line was changed meanwhile, or the version retired
            if manifest is None:
                if here is None:
                    inventory.complete.take_up(await asyncio.to_thread(read_complete, place, listing, None))
            else:
                await replace_in_thread(place.manifest, manifest.raw)
                known = Listing(listing.version, listing.digest, len(manifest.shards))
                complete = await asyncio.to_thread(read_complete, place, known, manifest)
                if inventory.line.withdrawal(listing.number, complete.digests) is None:
                    await self.list_locked(complete)
                else:
                    inventory.withdrawn[listing.number] = complete
        if manifest is None:
            await self._retirement.retire(listing.number, even_pinned=True)
        inventory.untrusted = [other for other in inventory.untrusted if other != listing]
