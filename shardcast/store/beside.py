"""Versions of another line, received beside the current line."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from shardcast.concurrency import in_thread
from shardcast.directories import make_folder
from shardcast.errors import TransferFailed, UsageError
from shardcast.filesystem import replace as replace_file
from shardcast.protocol.distribution import Listing
from shardcast.protocol.manifest import Manifest, Shard
from shardcast.protocol.wire import version_name
from shardcast.store.aside import MAX_ASIDE_SECONDS
from shardcast.store.aside_place import aside_place, line_name, open_mark, record_of
from shardcast.store.aside_version import AsideVersion, finish_aside, read_aside
from shardcast.store.directory_writer import DirectoryWriter
from shardcast.store.filled import RECEIVED_ANEW, FilledVersions
from shardcast.store.inventory import Inventory
from shardcast.store.line_record import LineRecord, withdrawn_error
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.open_version import OpenVersion
from shardcast.store.version_place import VersionPlace


class BesideVersions:
    """Reception of versions of another line, before the change to this line."""

    def __init__(self, inventory: Inventory, writer: DirectoryWriter, filled: FilledVersions) -> None:
        self._inventory = inventory
        self._writer = writer
        self._filled = filled

    def has_of(self, origin: str | None, listing: Listing) -> bool:
        """Return whether a version of a line is complete here, listed or put aside."""
        inventory = self._inventory
        complete = inventory.complete.get(listing.version)
        if inventory.line.origin == origin and complete and complete.listing.digest == listing.digest:
            return True
        place = aside_place(inventory.data_dir, origin, listing.number, listing.digest)
        aside = inventory.aside.get(place)
        return aside is not None and aside.finished

    async def begin_beside(
        self, origin: str | None, live: LiveManifest, listed: str = "sha256"
    ) -> OpenVersion:
        """Receive a version of another line.

        The version is neither listed nor announced, but its bytes count. When complete, the version lies
        aside; a change of line brings it in by a rename. A reception under way with the same manifest is
        returned; one with another manifest is stopped.

        Args:
            origin: the origin id of the version's line.
            live: the complete manifest.
            listed: the algorithm of the payload digest in the list.

        Raises:
            VersionWithdrawn: the publisher took the version back.
            UsageError: the manifest is incomplete.
            LocalDiskError: the version's folder can't be made.
        """
        manifest, aside = live.manifest, self._inventory.aside
        if manifest is None:
            raise UsageError(f"{live.version} can't be received beside another line before it is complete")
        number, digest = int(live.version[1:]), manifest.digests[listed]
        place = aside_place(self._inventory.data_dir, origin, number, digest)
        async with self._writer.exclusive():
            known = aside.beside.get(place)
            if known is not None and known.live.raw == live.raw:
                return known
            withdrawal = aside.record(origin).withdrawal(number, set(manifest.digests.values()))
            if withdrawal is not None:
                raise withdrawn_error(withdrawal)
            if known is not None:
                await in_thread(known.stop, TransferFailed(f"{live.version} {RECEIVED_ANEW}"))
            earlier = aside.get(place)
            whole = earlier is not None and earlier.finished and earlier.complete.manifest == manifest
            await asyncio.to_thread(self._make_place, origin, place, whole=whole)
            opened = await asyncio.to_thread(self._open, place, live, listed)
            aside.records.setdefault(line_name(origin), LineRecord(origin))
            if not whole:
                aside.remove(place)
            aside.beside.begin(place, opened)
            return opened

    def _make_place(self, origin: str | None, place: VersionPlace, *, whole: bool) -> None:
        """Make the folder of a line, with its record; blocks on the disk.

        Unless ``whole``, the version is marked as open.
        """
        data_dir = self._inventory.data_dir
        data_dir.check_held()
        record = record_of(data_dir, origin)
        make_folder(record.parent)
        if not record.exists():  # says which line it is, where the folder's name can't
            replace_file(record, LineRecord(origin).to_bytes())
        if not whole:
            # Before the first shard: all shards can be here before the whole digest was found right.
            replace_file(open_mark(place), b"")

    def _open(self, place: VersionPlace, live: LiveManifest, listed: str) -> OpenVersion:
        """Take over the folder of a version; blocks on the disk."""
        hooks = replace(self._filled.hooks, completed=self._complete, reserve=self._reserve)
        self._inventory.usage.drop(place.folder)
        return OpenVersion(int(live.version[1:]), place, hooks, live=live, listed=listed)

    async def _reserve(self, opened: OpenVersion, shard: Shard) -> bool:
        self._inventory.aside.beside.note_progress(opened.place)
        return await self._filled.reserve(opened, shard)

    async def _complete(self, opened: OpenVersion, manifest: Manifest) -> None:
        aside = self._inventory.aside
        async with self._writer.exclusive():
            if aside.beside.get(opened.place) is opened:
                finished = await asyncio.to_thread(self._finish, opened.place)
                aside.beside.end(opened.place)
                aside.add(finished)

    def _finish(self, place: VersionPlace) -> AsideVersion:
        """Mark a version as whole, durably, and return it, put aside now; blocks on the disk."""
        finish_aside(place)
        return self._read(place, self._inventory.clock())

    def _read(self, place: VersionPlace, since: float) -> AsideVersion:
        """Return the version in a place, put aside at ``since``; blocks on the disk."""
        record = self._inventory.aside.records.get(place.folder.parent.name, LineRecord())
        self._inventory.usage.measure(place.folder)
        return read_aside(place, record, since)

    async def end_abandoned(self) -> None:
        """Stop receiving versions no shard of which was begun for a day; their bytes so far lie aside.

        Raises:
            LocalDiskError: the directory at the path is another one.
        """
        for place in self._inventory.aside.beside.idle_for(MAX_ASIDE_SECONDS):
            async with self._writer.exclusive():
                await self._end(place)

    async def end_line(self, origin: str | None) -> None:
        """Stop receiving the versions of a line; under the lock."""
        name = line_name(origin)
        for place in [place for place in self._inventory.aside.beside if place.folder.parent.name == name]:
            await self._end(place)

    async def _end(self, place: VersionPlace) -> None:
        """Stop receiving a version; its bytes so far lie aside. Under the lock."""
        aside = self._inventory.aside
        since = aside.beside.touched(place)
        opened = aside.beside.end(place)
        if opened is not None:
            why = "nothing of it came for a day, or this node changes over to its line"
            error = TransferFailed(f"{version_name(opened.number)} is no longer received: {why}")
            await in_thread(opened.stop, error)
            aside.add(await in_thread(self._read, place, since))
