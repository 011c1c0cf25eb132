"""The versions of a data directory as they come and go."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace as replace_fields
from functools import partial
from pathlib import Path

from shardcast.concurrency import in_thread
from shardcast.constants import MAX_DISTRIBUTION_FOLDERS
from shardcast.errors import (
    LocalDiskError,
    ShardcastError,
    TransferFailed,
    VersionAborted,
    VersionWithdrawn,
)
from shardcast.filesystem import replace_soon
from shardcast.policy.retention import surplus
from shardcast.protocol.distribution import Listing, Withdrawal
from shardcast.protocol.feed import ABORTED, COMPLETE, OPEN, RETIRED
from shardcast.protocol.manifest import Manifest, Shard
from shardcast.protocol.wire import version_name, version_number
from shardcast.store.aside import AsideVersion
from shardcast.store.completed import Complete, read_complete
from shardcast.store.data_dir import DataDir
from shardcast.store.hooks import OpenVersionHooks
from shardcast.store.line_record import LineRecord
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.open_version import OpenVersion
from shardcast.store.pins import pin, unpin
from shardcast.store.quota import DiskQuota
from shardcast.store.recovery import recall_payload
from shardcast.store.removing import Removing
from shardcast.store.served import ServedVersions
from shardcast.store.spare import Spare
from shardcast.store.version_place import remove_version

log = logging.getLogger(__name__)


class FilledVersions(ServedVersions):
    """What is here of the current line, filled version by version and tidied.

    Attributes:
        keep: versions to keep; older ones retire.
        room: what they take, and may take.
    """

    def __init__(
        self,
        data_dir: DataDir,
        keep: int = MAX_DISTRIBUTION_FOLDERS,
        clock: Callable[[], float] = time.monotonic,
        max_bytes: int | None = None,
    ) -> None:
        """``max_bytes``: bytes that they may take; None for no bound."""
        super().__init__(data_dir, clock)
        self.keep = keep
        self.room = DiskQuota(
            data_dir, max_bytes, self._complete, self._open, self.holds, self, self.aside, self.usage
        )
        self._hooks = OpenVersionHooks(
            self._find,
            self._completed,
            self._reserve,
            self.room.extend,
            self.room.full,
            data_dir.check_held,
            self.usage,
        )
        self._removing = Removing(data_dir, self.usage)
        self._spare = Spare(data_dir.spare)
        self._retiring: set[asyncio.Future[None]] = set()
        self._in_doubt: dict[int, asyncio.Future[None]] = {}  # payloads that are looked into
        self._writing = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def _exclusive(self) -> AsyncIterator[None]:
        """Entered by whoever writes the list or the records, one at a time.

        Raises:
            LocalDiskError: the directory at the path is another one, or a change of line can't be finished.
        """
        async with self._writing:
            self.data_dir.check_held()
            await self._finish_change()
            yield

    async def _finish_change(self) -> None:
        """Carry out what is left of a change of line that failed, before anything else is written."""

    # How a version gets here

    async def begin(
        self, number: int, live: LiveManifest | None = None, listed: str = "sha256"
    ) -> OpenVersion:
        """``open``, and tell of it."""
        async with self._exclusive():
            before = self._open.get(number)
            make = partial(in_thread, self._make, number, live, listed, undo=self._begin_open)
            opened = await self._spare.lent_to(make)
            self._begin_open(opened)
            if before:
                before.live.fail(TransferFailed(f"{version_name(number)} is described anew"))
            self._reveal_open(number)
        return opened

    def _reveal_open(self, number: int) -> None:
        """Tell of an open version, hidden or new."""
        self._hidden.discard(number)
        self.events.tell(OPEN, version_name(number))

    def open(self, number: int, live: LiveManifest | None = None, listed: str = "sha256") -> OpenVersion:
        """Open a version, to publish it or (``live``, its manifest) to receive it; blocks on the disk.

        Raises:
            LocalDiskError: its folder can't be made.
        """
        opened = self._make(number, live, listed)
        self._begin_open(opened)
        return opened

    def _make(self, number: int, live: LiveManifest | None, listed: str) -> OpenVersion:
        """Take over the folder of a version; blocks on the disk, so in a thread. What can't be begun leaves
        nothing."""
        place = self.data_dir.place(number)
        is_new = not place.folder.exists()
        self.usage.drop(place.folder)
        try:
            return OpenVersion(number, place, self._hooks, live, listed)
        except LocalDiskError:
            if is_new and place.folder.exists() and self.data_dir.held:
                remove_version(place.folder)
            raise

    def _begin_open(self, opened: OpenVersion) -> None:
        """Count a version as open; by the event loop, or before it runs."""
        self._withdrawn.pop(opened.number, None)  # the folder is taken over
        self._open[opened.number] = opened
        with contextlib.suppress(RuntimeError):  # load() has none, and nobody writes meanwhile
            opened.loop = asyncio.get_running_loop()

    def _find(self, sha256: str) -> Path | None:
        """Return the file of a shard that is here already, of any line."""
        return self._complete.find(sha256) or self.aside.find(sha256)

    async def _reserve(self, opened: OpenVersion, shard: Shard) -> bool:
        """Have room for the next shard of a version. What is here of it is linked before anything goes."""
        if opened.live.whole and not opened.space.linked_all:
            await in_thread(opened.link_known)
            opened.space.linked_all = True
        elif not opened.space.linked_all and opened.space.coming(shard):
            await in_thread(opened.link_one, shard)
        return await self.room.reserve(opened, shard, partial(opened.reserve_part, shard))

    async def discard(self, number: int, withdrawal: Withdrawal | None = None) -> None:
        """Give up a version that is open, where its publisher took it back because of the ``withdrawal``. A
        transfer that still fills it fails with its next shard."""
        async with self._writing:
            await self._discard(number, withdrawal)

    async def _discard(self, number: int, withdrawal: Withdrawal | None = None) -> None:
        """``discard`` under the lock: another version may get its place next."""
        opened, version = self._open.pop(number, None), version_name(number)
        if opened is None:
            return
        error: ShardcastError
        if withdrawal is None and opened.space.refused is not None:
            error = opened.space.refused
            opened.live.abort("there was no room for it")
        elif withdrawal is None:
            error = VersionAborted(f"{version} was given up here before it was complete")
            opened.live.abort("it was given up before it was complete")
        else:
            error = withdrawn_error(withdrawal)
            opened.live.abort(f"withdrawn: {withdrawal.reason}")
        if number not in self._hidden:
            self.events.tell(ABORTED, version)
        self._hidden.discard(number)
        try:
            await in_thread(opened.stop, error)
            await in_thread(opened.discard)
            self.usage.drop(opened.place.folder)
        except LocalDiskError:
            if self.data_dir.held:
                raise
            # The next start on that directory gives it up.
        self._let_go(number)

    async def _completed(self, opened: OpenVersion, manifest: Manifest) -> None:
        """
        Raises:
            VersionWithdrawn: its publisher took it back meanwhile.
            LocalDiskError: it could not be listed.
        """
        number, digest = opened.number, manifest.digests[opened.listed]
        listing = Listing(manifest.version, digest, len(manifest.shards), manifest.identity)
        complete = await asyncio.to_thread(read_complete, opened.place, listing, manifest)
        async with self._exclusive():
            withdrawal = self.line.withdrawal(number, complete.digests)
            if withdrawal is None:
                await self._list(complete)
        if withdrawal is not None:
            await self.discard(number, withdrawal)
            raise withdrawn_error(withdrawal)
        if not opened.live.whole:
            opened.live.add(manifest.raw[len(opened.live.raw) :])
        await self.try_tidy()

    async def _list(self, complete: Complete) -> None:
        """List a version that is whole here; under the lock."""
        listing = complete.listing
        await asyncio.to_thread(self.usage.measure, complete.place.folder)  # first: it may fail
        if self.own_line:
            # Before the list: should this fail, the publisher removes the version's files.
            await self._put_record(self.line.listing([listing]))
        await self._spare.lent_to(partial(self._complete.add, complete))
        opened = self._open.pop(listing.number, None)
        if opened and not opened.live.whole and complete.manifest:
            opened.live.add(complete.manifest.raw[len(opened.live.raw) :])
        self._hidden.discard(listing.number)
        self.known.pop(listing.number, None)
        self.room.let_go(listing.number)
        self.events.tell(COMPLETE, listing.version, complete.listing)

    async def surveyed(self, listing: Listing, manifest: Manifest | None) -> None:
        """Keep the manifest that was made for a version which an old node left here; None when its bytes
        are not what its digest says, so that it goes."""
        place = self.data_dir.place(listing.number)
        async with self._exclusive():
            here = self._complete.get(listing.version)
            if listing not in self.untrusted and (here is None or here.listing.digest != listing.digest):
                return  # the line was changed meanwhile, or the version retired
            if manifest is None:
                if here is None:
                    self._complete.take_up(await asyncio.to_thread(read_complete, place, listing, None))
            else:
                await replace_soon(place.manifest, manifest.raw)
                known = Listing(listing.version, listing.digest, len(manifest.shards))
                complete = await asyncio.to_thread(read_complete, place, known, manifest)
                if self.line.withdrawal(listing.number, complete.digests) is None:
                    await self._list(complete)
                else:
                    self._withdrawn[listing.number] = complete
        if manifest is None:
            await self.retire(listing.number, even_pinned=True)
        self.untrusted = [one for one in self.untrusted if one != listing]

    async def _put_record(self, record: LineRecord) -> None:
        """Have the line's record on the disk, then in force; under the lock.

        Raises:
            LocalDiskError: it could not be written.
        """
        if record != self.line:
            await self._spare.lent_to(partial(replace_soon, self.data_dir.line, record.to_bytes()))
            self.line = record

    # How long it stays

    async def pin(self, version: str) -> None:
        """Keep a version until it is unpinned; also over restarts.

        Raises:
            VersionNotOffered: it is not here, or not complete.
            LocalDiskError: it could not be written down.
        """
        async with self._exclusive():
            self.holds.pinned.add(await asyncio.to_thread(pin, self.data_dir, version))

    async def unpin(self, version: str) -> None:
        """Let a version go its way again.

        Raises:
            VersionNotOffered: it is not pinned.
            LocalDiskError: it could not be written down.
        """
        async with self._exclusive():
            self.holds.pinned.discard(await asyncio.to_thread(unpin, self.data_dir, version))
        await self.try_tidy()

    async def try_tidy(self) -> None:
        """``tidy`` after something that is done, whatever comes of it: what fails is tried again."""
        try:
            await self.tidy()
        except OSError as error:
            log.error("could not retire old versions: %s", error)

    async def tidy(self) -> None:
        """Retire what is beyond retention and not held. Provisional versions take no place from others."""
        if not self.held:
            return
        provisional = self.provisional
        free = self.complete_numbers - self.holds.pinned
        beyond = surplus(free - provisional, self.keep) + surplus(free & provisional, self.keep)
        for number in self.holds.retirable(sorted(beyond)):
            log.info("retired %s: newer versions took its place", version_name(number))
            await self.retire(number)
        for number in self.room.to_retire(provisional & self.complete_numbers):
            log.info("retired %s: the versions here may take less", version_name(number))
            await self.retire(number)
        for number in self._beyond_keep({*self._withdrawn, *self._hidden}):
            await self.drop_unlisted(number)
        for one in self.aside.expired(bool(self.complete_numbers)):
            await self.drop_aside(one, "a day has passed")
        async with self._exclusive():
            numbers = self.complete_numbers | self._open.keys()
            await self._removing.again([self.data_dir.place(number) for number in numbers])
        await self._removing.empty()
        if not self.own_line:
            await asyncio.to_thread(self._spare.keep)
        self._complete.check_payloads()

    def _beyond_keep(self, numbers: set[int]) -> list[int]:
        """Return which of these have as many newer listed versions as are kept."""
        listed = self.complete_numbers
        return [one for one in sorted(numbers) if sum(number > one for number in listed) >= self.keep]

    async def retire(self, number: int, even_pinned: bool = False, even_leased: bool = True) -> None:
        """Take a version off the list, then away. Answers that are running end well. One that was pinned, or
        leased, a moment ago stays, unless it goes ``even_pinned`` or ``even_leased``."""
        meant = self._complete.get(version_name(number))
        async with self._exclusive():
            here = self._complete.get(version_name(number))
            # After a change of line the number is another version's.
            if here is None or here is not meant or (number in self.holds.pinned and not even_pinned):
                return
            if number in self.holds.leased() and not even_leased:
                return
            await self._spare.lent_to(partial(self._complete.remove, number))
            self.holds.pinned.discard(number)
            self.events.tell(RETIRED, version_name(number))
            await self._removing.remove(here.place)
            self._let_go(number)
        await self._removing.empty()

    # What Room may drop before any listed version

    def unlisted_numbers(self) -> set[int]:
        """Return what is here and not listed: files of withdrawn versions, and versions that the authority
        does not list."""
        return {*self._withdrawn, *(self._hidden & self._open.keys())}

    async def drop_unlisted(self, number: int) -> None:
        """Remove the files of a version that is here and not listed. Answers that are running end well."""
        async with self._exclusive():
            withdrawn = self._withdrawn.pop(number, None)
            if withdrawn is not None:
                log.info("removed the files of %s, which was withdrawn", version_name(number))
                await self._removing.remove(withdrawn.place)
                self._let_go(number)
            elif number in self._hidden:
                log.info("removed %s, which the servers' authority does not list", version_name(number))
                await self._discard(number)
        await self._removing.empty()

    async def drop_aside(self, one: AsideVersion, why: str) -> None:
        """Remove a version of another line, if it is still aside. Answers that are running end well."""
        async with self._exclusive():
            if self.aside.get(one.place) is one:
                await self.aside.drop(one, why)

    def is_known(self, number: int) -> bool:
        """Return whether the authority lists a version, or did."""
        return number in self.line.digests

    def takes_from_firm(self, number: int) -> bool:
        """Return whether an open version may have listed versions retired to make room for it."""
        opened = self._open.get(number)
        whole = opened.live.whole if opened else None
        if number in self._hidden:
            return False
        if opened is None or whole is None or (opened.being_made and not self.is_known(number)):
            return opened is None or opened.makes_room  # its digest is not known yet, or not listed yet
        return not self._is_provisional(number, set(whole.digests.values()))

    def _changed(self, number: int) -> None:
        """Look into a payload that was published without a copy and does not look as it did: meanwhile its
        version is in doubt, and not served; then it is served again, or goes."""
        if number not in self._in_doubt:
            looking = asyncio.ensure_future(self._look_into(number))
            self._in_doubt[number] = looking
            looking.add_done_callback(lambda _: self._in_doubt.pop(number))

    async def _look_into(self, number: int) -> None:
        version, stop = version_name(number), threading.Event()
        complete = self._complete.get(version)
        try:
            if complete is None or complete.manifest is None:
                return
            looks = await asyncio.to_thread(recall_payload, complete.place, complete.manifest, stop.is_set)
            async with self._exclusive():
                if self._complete.get(version) is not complete:
                    return
                if looks:
                    self._complete.take_up(replace_fields(complete, looks=looks))
                    return
            log.error(
                "%s is retired: its file was changed after it was published without a copy; publish it "
                "again, or with a copy",
                version,
            )
            await self.retire(number, even_pinned=True)
        except OSError as error:
            log.error("%s is in doubt, and not served: %s", version, error)
        finally:
            stop.set()

    def in_doubt(self, version: str) -> bool:
        return (version_number(version) or 0) in self._in_doubt

    def _let_go(self, number: int) -> None:
        """A version has gone, and nothing need be known of it."""
        if self._here(version_name(number)) is None:
            self.room.let_go(number)
            self.holds.forget(number)


def withdrawn_error(withdrawal: Withdrawal) -> VersionWithdrawn:
    reason = f": {withdrawal.reason}" if withdrawal.reason else ""
    return VersionWithdrawn(f"{withdrawal.version} was withdrawn by its publisher{reason}")
