"""Versions of another line, received beside the line that is here."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from shardcast.concurrency import in_thread
from shardcast.errors import TransferFailed, UsageError
from shardcast.filesystem import make_folder
from shardcast.filesystem import replace as replace_file
from shardcast.protocol.distribution import Listing
from shardcast.protocol.manifest import Manifest, Shard
from shardcast.protocol.wire import version_name
from shardcast.store.aside import (
    AsideVersion,
    aside_place,
    finish_aside,
    line_name,
    open_mark,
    read_aside,
    record_of,
)
from shardcast.store.filled import withdrawn_error
from shardcast.store.line_record import LineRecord
from shardcast.store.line_versions import LineVersions
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.open_version import OpenVersion
from shardcast.store.version_place import VersionPlace


class BesideVersions(LineVersions):
    """The versions of a line, with those of another one that are received before it takes their place."""

    # Beside the current line

    def has_of(self, origin: str | None, listing: Listing) -> bool:
        """Return whether a version of a line is complete here, listed or put aside."""
        complete = self._complete.get(listing.version)
        if self.line.origin == origin and complete and complete.listing.digest == listing.digest:
            return True
        place = aside_place(self.data_dir, origin, listing.number, listing.digest)
        aside = self.aside.get(place)
        return aside is not None and aside.finished

    async def begin_beside(
        self, origin: str | None, live: LiveManifest, listed: str = "sha256"
    ) -> OpenVersion:
        """Receive a version of another line, whose manifest is whole. It is neither listed nor told of. What
        is here of it already counts. Once complete it lies aside, and ``change_line`` brings it in by a
        rename.

        Raises:
            VersionWithdrawn: its publisher took it back.
            UsageError: its manifest is not whole.
            LocalDiskError: its folder can't be made.
        """
        manifest = live.whole
        if manifest is None:
            raise UsageError(f"{live.version} can't be received beside another line before it is complete")
        number, digest = int(live.version[1:]), manifest.digests[listed]
        place = aside_place(self.data_dir, origin, number, digest)
        async with self._exclusive():
            known = self.aside.beside.get(place)
            if known is not None and known.live.raw == live.raw:
                return known
            withdrawal = self.aside.record(origin).withdrawal(number, set(manifest.digests.values()))
            if withdrawal is not None:
                raise withdrawn_error(withdrawal)
            if known is not None:
                await in_thread(known.stop, TransferFailed(f"{live.version} is described anew"))
            aside = self.aside.get(place)
            whole = aside is not None and aside.finished and aside.complete.manifest == manifest
            opened = await asyncio.to_thread(self._open_beside, origin, place, live, listed, whole)
            self.aside.records.setdefault(line_name(origin), LineRecord(origin))
            self.aside.begin(place, opened, whole)
            return opened

    def _open_beside(
        self, origin: str | None, place: VersionPlace, live: LiveManifest, listed: str, whole: bool
    ) -> OpenVersion:
        self.data_dir.check_held()
        record = record_of(self.data_dir, origin)
        make_folder(record.parent)
        if not record.exists():  # says which line it is, where the folder's name can't
            replace_file(record, LineRecord(origin).to_bytes())
        if not whole:
            # Before the first shard: all shards can be here before the whole digest was found right.
            replace_file(open_mark(place), b"")
        hooks = replace(self._hooks, completed=self._completed_beside, reserve=self._reserve_beside)
        self.usage.drop(place.folder)
        return OpenVersion(int(live.version[1:]), place, hooks, live, listed)

    async def _reserve_beside(self, opened: OpenVersion, shard: Shard) -> bool:
        self.aside.touch(opened.place)
        return await self._reserve(opened, shard)

    async def _completed_beside(self, opened: OpenVersion, manifest: Manifest) -> None:
        async with self._exclusive():
            if self.aside.beside.get(opened.place) is opened:
                aside = await asyncio.to_thread(self._finish_beside, opened.place)
                self.aside.end(opened.place)
                self.aside.put(aside)

    def _finish_beside(self, place: VersionPlace) -> AsideVersion:
        finish_aside(place)
        return self._read_aside(place, self._clock())

    def _read_aside(self, place: VersionPlace, since: float) -> AsideVersion:
        record = self.aside.records.get(place.folder.parent.name, LineRecord())
        self.usage.measure(place.folder)
        return read_aside(place, record, since)

    async def tidy(self) -> None:
        """Retire and remove what has had its time."""
        for place in self.aside.abandoned():
            async with self._exclusive():
                await self._end_beside(place)
        await super().tidy()

    async def _end_beside(self, place: VersionPlace) -> None:
        """Receive a version no longer; what there is of it lies aside. Under the lock."""
        since = self.aside.touched(place)
        opened = self.aside.end(place)
        if opened is not None:
            error = TransferFailed(f"{version_name(opened.number)} is no longer received beside")
            await in_thread(opened.stop, error)
            self.aside.put(await in_thread(self._read_aside, place, since))
