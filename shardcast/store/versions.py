"""The version folders of a data directory: a Shelf."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from shardcast.constants import MAX_DISTRIBUTION_FOLDERS
from shardcast.distribution import Listing
from shardcast.errors import LocalDiskError, TransferFailed
from shardcast.feed import ABORTED, COMPLETE, OPEN, RETIRED, Event
from shardcast.manifest import Manifest
from shardcast.manifest_reading import ManifestError
from shardcast.policy.retention import surplus
from shardcast.sizes import format_count
from shardcast.store.complete import CompleteVersions
from shardcast.store.data_dir import DataDir
from shardcast.store.durable import PART, disk_errors, replace_soon
from shardcast.store.events import Events
from shardcast.store.holds import LEASE, READ, Holds, Reader
from shardcast.store.landing import Landing
from shardcast.store.live import LiveManifest
from shardcast.store.open_version import OpenVersion, is_versions_file, remove_version
from shardcast.store.pins import pin, pinned, unpin
from shardcast.store.removing import Removing
from shardcast.store.room import Room
from shardcast.store.shelf import Span
from shardcast.store.taking_up import check, lines_of, listed
from shardcast.store.verified import Verified
from shardcast.wire import version_name, version_number

log = logging.getLogger(__name__)


class VersionFolders:
    """What a data directory holds, served as it is and filled version by version.

    Attributes:
        data_dir: the directory.
        keep: versions to keep; older ones retire.
        holds: who holds which.
        room: what they take, and may take.
        events: what happens to them.
        untrusted: versions that an old middle left here, which verified nothing; not served.
    """

    def __init__(
        self,
        data_dir: DataDir,
        keep: int = MAX_DISTRIBUTION_FOLDERS,
        clock: Callable[[], float] = time.monotonic,
        max_bytes: int | None = None,
    ) -> None:
        """``max_bytes``: bytes that they may take; None for no bound."""
        self.data_dir = data_dir
        self.keep = keep
        self.holds = Holds(clock)
        self.events = Events()
        self.untrusted: list[Listing] = []
        self._complete = CompleteVersions(data_dir, self._changed)
        self._open: dict[int, OpenVersion] = {}
        self.room = Room(data_dir.root, max_bytes, self._complete, self._open, self.holds, self.retire)
        self._removing = Removing(data_dir)
        self._retiring: set[asyncio.Future[None]] = set()
        self._writing = asyncio.Lock()

    # What is here

    @property
    def listings(self) -> tuple[Listing, ...]:
        """The complete versions, oldest first."""
        return self._complete.listings

    @property
    def complete_numbers(self) -> set[int]:
        return self._complete.numbers

    @property
    def open_numbers(self) -> set[int]:
        return set(self._open)

    @property
    def unsurveyed(self) -> list[Listing]:
        """Versions whose manifest is still to be made, newest first."""
        return [one for one in reversed(self.listings) if self.manifest_of(one.version) is None]

    def distribution(self) -> bytes:
        return self._complete.distribution

    def versions_now(self) -> list[Event]:
        seq = self.events.seq
        complete = [Event(seq, COMPLETE, one.version, one) for one in self.listings]
        return complete + [Event(seq, OPEN, version_name(number)) for number in sorted(self._open)]

    def live(self, version: str) -> LiveManifest | None:
        """The manifest of a version that is open and whose single shards can be verified."""
        opened = self.opened(version_number(version) or 0)
        return opened.live if opened and (opened.live.raw or not opened.live.begun) else None

    def manifest_of(self, version: str) -> Manifest | None:
        """The manifest of a complete version."""
        complete = self._complete.get(version)
        return complete.manifest if complete else None

    def manifest(self, version: str) -> bytes | None:
        manifest = self.manifest_of(version)
        return manifest.raw if manifest else None

    def shard(self, version: str, number: int) -> Span | None:
        opened = self.opened(version_number(version) or 0)
        return opened.shard(number) if opened else self._complete.shard(version, number)

    def landing(self, version: str, number: int) -> Landing | None:
        opened = self.opened(version_number(version) or 0)
        return opened.landings.get(number) if opened else None

    async def arrival(self, version: str, number: int) -> None:
        opened = self.opened(version_number(version) or 0)
        if opened:
            await opened.arrival(number)

    def opened(self, number: int) -> OpenVersion | None:
        """The version under way with this number."""
        return self._open.get(number)

    def spans(self, listing: Listing) -> list[Span]:
        """The shards' files of a version without a manifest."""
        return self._complete.spans(listing)

    def had(self, version: str) -> tuple[int, int]:
        """How many shards and bytes of a version are here, verified."""
        opened, complete = self.opened(version_number(version) or 0), self._complete.get(version)
        if opened:
            return len(opened.had), opened.bytes_here
        return (complete.listing.shards or 0, complete.size) if complete else (0, 0)

    # Who holds it

    def reading(self, version: str, by: str) -> contextlib.AbstractContextManager[Reader]:
        number = self._here(version)
        if number is None:
            return contextlib.nullcontext(Reader(READ, by))
        return self.holds.held(number, READ, by)

    @contextlib.contextmanager
    def leased(self, version: str, by: str) -> Iterator[bool]:
        number = self._here(version)
        if number is None:
            yield False
        else:
            with self.holds.held(number, LEASE, by):
                yield True

    def _here(self, version: str) -> int | None:
        number = version_number(version) or 0
        return number if number in self._complete or number in self._open else None

    async def pin(self, version: str) -> None:
        """Keep a version until it is unpinned; also over restarts.

        Raises:
            VersionNotOffered: it is not here, or not complete.
            LocalDiskError: it could not be written down.
        """
        async with self._writing:
            self.holds.pinned.add(await asyncio.to_thread(pin, self.data_dir, version))

    async def unpin(self, version: str) -> None:
        """Let a version go its way again.

        Raises:
            VersionNotOffered: it is not pinned.
            LocalDiskError: it could not be written down.
        """
        async with self._writing:
            self.holds.pinned.discard(await asyncio.to_thread(unpin, self.data_dir, version))
        await self.tidy()

    def has(self, version: str) -> bool:
        return self._here(version) is not None

    # How it gets here

    def load(self, resume: bool) -> list[str]:
        """Take up what the directory holds; blocks on the disk. Returns what is worth telling.

        What was open when the node ended goes on (``resume``, a middle) or is given up (an origin).

        Raises:
            LocalDiskError: the directory can't be read or written.
        """
        told: list[str] = []
        with disk_errors("could not take up", self.data_dir.root):
            self.data_dir.clear_leftovers()
            listings = listed(self.data_dir)
            numbers = {*self.data_dir.numbers(), *(one.number for one in listings)}
            self.data_dir.never_again(max(numbers, default=0))
            for listing in listings:
                try:
                    manifest = check(self.data_dir, listing)
                    if manifest is None and resume:
                        self.untrusted.append(listing)
                    else:
                        self._complete.take_up(listing, manifest)
                        for part in self.data_dir.folder(listing.number).glob(f"*{PART}"):
                            part.unlink()
                except (LocalDiskError, ManifestError) as error:
                    told.append(f"{listing.version} is not complete here any more: {error}")
            for number in self.data_dir.numbers():
                if number not in self._complete and all(number != one.number for one in self.untrusted):
                    told += self._take_up_open(number, resume)
            self._complete.write_list()
            here = self.complete_numbers | {one.number for one in self.untrusted}
            self.holds.pinned = pinned(self.data_dir) & here
        return told

    def _take_up_open(self, number: int, resume: bool) -> list[str]:
        folder, file = self.data_dir.folder(number), self.data_dir.manifest(number)
        version = version_name(number)
        if resume and file.exists():
            try:
                opened = self.open(number, lines_of(self.data_dir, number))
                return [f"going on with {version}: {format_count(len(opened.had), 'shard')} here"]
            except ManifestError:
                pass  # it is asked for again
        if all(is_versions_file(entry) for entry in folder.iterdir()):
            remove_version(folder)
            Verified(self.data_dir.verified / version).remove()
            return [f"gave up {version}, which was not complete"]
        return [f"left alone {folder}, which is not listed and holds other files"]

    async def begin(
        self, number: int, live: LiveManifest | None = None, listed: str = "sha256"
    ) -> OpenVersion:
        """``open``, and tell of it."""
        before = self._open.get(number)
        opened = await asyncio.to_thread(self.open, number, live, listed)
        if before:
            before.live.fail(TransferFailed(f"{version_name(number)} is described anew"))
        self.events.tell(OPEN, version_name(number))
        return opened

    def open(self, number: int, live: LiveManifest | None = None, listed: str = "sha256") -> OpenVersion:
        """Open a version, to publish it or (``live``, its manifest) to receive it; blocks on the disk.

        Raises:
            LocalDiskError: its folder can't be made.
        """
        opened = OpenVersion(
            self.data_dir, number, self._complete.find, self._completed, live, listed, self.room.claim
        )
        self._open[number] = opened
        self.room.begin(number)
        return opened

    async def discard(self, number: int) -> None:
        """Give up a version that is open."""
        opened = self._open.pop(number, None)
        if opened:
            opened.live.abort("it was given up before it was complete")
            self.events.tell(ABORTED, version_name(number))
            await asyncio.to_thread(opened.discard)
            self._let_go(number)

    async def _completed(self, opened: OpenVersion, manifest: Manifest) -> None:
        digest = manifest.digests[opened.listed]
        listing = Listing(manifest.version, digest, len(manifest.shards), manifest.identity)
        async with self._writing:
            await self._complete.add(listing, manifest)
            self._open.pop(opened.number, None)
            self.room.let_go(opened.number)
            if not opened.live.whole:
                opened.live.add(manifest.raw[len(opened.live.raw) :])
            self.events.tell(COMPLETE, listing.version, listing)
        await self.tidy()

    async def surveyed(self, listing: Listing, manifest: Manifest | None) -> None:
        """Keep the manifest that was made for a version which an old node left here; None when its bytes
        are not what its digest says, so that it goes."""
        if manifest is None:
            if listing.number not in self._complete:
                self._complete.take_up(listing, None)
            await self.retire(listing.number, even_pinned=True)
        elif listing.number in self._complete or listing in self.untrusted:
            await replace_soon(self.data_dir.manifest(listing.number), manifest.raw)
            async with self._writing:
                known = Listing(listing.version, listing.digest, len(manifest.shards))
                await self._complete.add(known, manifest)
                self.events.tell(COMPLETE, known.version, known)
        self.untrusted = [one for one in self.untrusted if one != listing]

    # How it goes

    async def tidy(self) -> None:
        """Retire what is beyond retention and not held."""
        beyond = surplus(self.complete_numbers - self.holds.pinned, self.keep)
        for number in self.holds.retirable(beyond):
            log.info("retired %s: newer versions took its place", version_name(number))
            await self.retire(number)
        for number in self.room.in_the_way(max(self.complete_numbers, default=0)):
            log.info("retired %s: the versions here may take less", version_name(number))
            await self.retire(number)
        await self._removing.again()
        self._complete.check_payloads()

    async def retire(self, number: int, even_pinned: bool = False) -> None:
        """Take a version off the list, then away. Answers that are running end well. One that was pinned a
        moment ago stays, unless it goes ``even_pinned``."""
        async with self._writing:
            if number not in self._complete or (number in self.holds.pinned and not even_pinned):
                return
            await self._complete.remove(number)
            self.holds.pinned.discard(number)
            self.events.tell(RETIRED, version_name(number))
        await self._removing.remove(number)
        self._let_go(number)

    def _changed(self, number: int) -> None:
        """A payload that was published without a copy was written to: its version goes, at once."""
        log.error(
            "%s is retired: its file was changed after it was published without a copy; publish it again, "
            "or with a copy",
            version_name(number),
        )
        retiring = asyncio.ensure_future(self.retire(number, even_pinned=True))
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)

    def _let_go(self, number: int) -> None:
        """A version has gone, and nothing need be known of it."""
        if self._here(version_name(number)) is None:
            self.room.let_go(number)
            self.holds.forget(number)
