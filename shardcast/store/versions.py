"""The version folders of a data directory: a Shelf."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shardcast.constants import LONGEST_HOLD, MAX_DISTRIBUTION_FOLDERS, RECENTLY_READ
from shardcast.digest import sha256_of
from shardcast.distribution import Listing, parse, write
from shardcast.errors import LocalDiskError, TransferFailed
from shardcast.feed import ABORTED, COMPLETE, OPEN, RETIRED, Event
from shardcast.manifest import Manifest, ManifestError
from shardcast.manifest import parse as parse_manifest
from shardcast.policy.retention import retirable, surplus
from shardcast.sizes import format_count
from shardcast.store.data_dir import DataDir
from shardcast.store.durable import PART, disk_errors, replace, replace_soon
from shardcast.store.events import Events
from shardcast.store.landing import Landing
from shardcast.store.live import LiveManifest
from shardcast.store.open_version import OpenVersion, is_versions_file, remove_version
from shardcast.store.shelf import Span
from shardcast.store.verified import Verified, looks_of
from shardcast.wire import version_name, version_number

log = logging.getLogger(__name__)


@dataclass
class _Complete:
    """A complete version. ``manifest`` is None for what 0.1.0 left here, until it was surveyed; ``looks``
    is what an adopted payload looked like when it was published."""

    listing: Listing
    manifest: Manifest | None
    looks: str | None = None


class VersionFolders:
    """What a data directory holds, served as it is and filled version by version.

    Attributes:
        data_dir: the directory.
        keep: versions to keep; older ones retire.
        events: what happens to them.
        untrusted: versions that an old middle left here, which verified nothing; not served.
    """

    def __init__(
        self,
        data_dir: DataDir,
        keep: int = MAX_DISTRIBUTION_FOLDERS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.data_dir = data_dir
        self.keep = keep
        self.events = Events()
        self._clock = clock
        self._complete: dict[int, _Complete] = {}
        self._open: dict[int, OpenVersion] = {}
        self._readers: dict[int, int] = {}
        self._last_read: dict[int, float] = {}
        self._surplus_since: dict[int, float] = {}
        self._by_digest: dict[str, tuple[int, Path, str]] = {}
        self._leaving: set[int] = set()
        self._retiring: set[asyncio.Future[None]] = set()
        self._distribution = b""
        self.untrusted: list[Listing] = []
        self._writing = asyncio.Lock()

    # What is here

    @property
    def listings(self) -> tuple[Listing, ...]:
        """The complete versions, oldest first."""
        return tuple(self._complete[number].listing for number in sorted(self._complete))

    @property
    def complete_numbers(self) -> set[int]:
        return set(self._complete)

    @property
    def open_numbers(self) -> set[int]:
        return set(self._open)

    @property
    def unsurveyed(self) -> list[Listing]:
        """Versions whose manifest is still to be made, newest first."""
        return [one.listing for _, one in sorted(self._complete.items(), reverse=True) if not one.manifest]

    def distribution(self) -> bytes:
        return self._distribution

    def versions_now(self) -> list[Event]:
        seq = self.events.seq
        complete = [Event(seq, COMPLETE, one.version, one) for one in self.listings]
        return complete + [Event(seq, OPEN, version_name(number)) for number in sorted(self._open)]

    def live(self, version: str) -> LiveManifest | None:
        """The manifest of a version that is open and whose single shards can be verified."""
        opened = self._open.get(version_number(version) or 0)
        return opened.live if opened and (opened.live.raw or not opened.live.begun) else None

    def manifest_of(self, version: str) -> Manifest | None:
        """The manifest of a complete version."""
        complete = self._complete.get(version_number(version) or 0)
        return complete.manifest if complete else None

    def manifest(self, version: str) -> bytes | None:
        manifest = self.manifest_of(version)
        return manifest.raw if manifest else None

    def landing(self, version: str, number: int) -> Landing | None:
        opened = self._open.get(version_number(version) or 0)
        return opened.landings.get(number) if opened else None

    async def arrival(self, version: str, number: int) -> None:
        opened = self._open.get(version_number(version) or 0)
        if opened:
            await opened.bell.until(lambda: number in opened.had or number in opened.landings)

    def had(self, version: str) -> int:
        """How many shards of a version are here, whole and verified."""
        number = version_number(version) or 0
        opened = self._open.get(number)
        if opened:
            return len(opened.had)
        complete = self._complete.get(number)
        return (complete.listing.shards or 0) if complete else 0

    def shard(self, version: str, number: int) -> Span | None:
        version_no = version_number(version) or 0
        if version_no in self._open:
            return self._open_shard(self._open[version_no], number)
        if version_no not in self._complete:
            return None
        manifest, looks = self._complete[version_no].manifest, self._complete[version_no].looks
        if manifest is None:
            return self._unsurveyed_shard(version_no, number)
        if not 1 <= number <= len(manifest.shards):
            return None
        shard = manifest.shards[number - 1]
        if looks:
            payload = self.data_dir.payload(version_no)
            if looks_of(payload) != looks:
                self._changed(version_no)
                return None
            return Span(payload, shard.offset, shard.size, shard.sha256)
        return Span(self.data_dir.shard(version_no, number), 0, shard.size, shard.sha256)

    def _open_shard(self, opened: OpenVersion, number: int) -> Span | None:
        if not 1 <= number <= len(opened.live.shards):
            return None
        shard = opened.live.shards[number - 1]
        if opened.linked:
            return Span(opened.payload, shard.offset, shard.size, shard.sha256)
        return Span(opened.file(number), 0, shard.size, shard.sha256) if number in opened.had else None

    def _changed(self, number: int) -> None:
        """A payload that was published without a copy was written to: its version goes, at once."""
        log.error(
            "%s is retired: its file was changed after it was published without a copy; publish it again, "
            "or with a copy",
            version_name(number),
        )
        retiring = asyncio.ensure_future(self.retire(number))
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)

    def _unsurveyed_shard(self, version_no: int, number: int) -> Span | None:
        file = self.data_dir.shard(version_no, number)
        try:
            return Span(file, 0, file.stat().st_size, None)
        except OSError:
            return None

    @contextlib.contextmanager
    def reading(self, version: str) -> Iterator[None]:
        number = version_number(version) or 0
        self._readers[number] = self._readers.get(number, 0) + 1
        try:
            yield
        finally:
            self._readers[number] -= 1
            if not self._readers[number]:
                del self._readers[number]
            self._last_read[number] = self._clock()

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
            listings = self._read_list()
            numbers = {*self.data_dir.numbers(), *(one.number for one in listings)}
            self.data_dir.never_again(max(numbers, default=0))
            for listing in listings:
                try:
                    manifest = self._check(listing)
                    if manifest is None and resume:
                        self.untrusted.append(listing)
                    else:
                        self._add(listing, manifest)
                        for part in self.data_dir.folder(listing.number).glob(f"*{PART}"):
                            part.unlink()
                except (LocalDiskError, ManifestError) as error:
                    told.append(f"{listing.version} is not complete here any more: {error}")
            for number in self.data_dir.numbers():
                if number not in self._complete and all(number != one.number for one in self.untrusted):
                    told += self._take_up_open(number, resume)
            self._distribution = write(self.listings)
            if self._read_bytes() != self._distribution:
                replace(self.data_dir.distribution, self._distribution)
        return told

    def _read_bytes(self) -> bytes | None:
        try:
            return self.data_dir.distribution.read_bytes()
        except FileNotFoundError:
            return None

    def _read_list(self) -> tuple[Listing, ...]:
        try:
            found = parse(self._read_bytes() or b"")
        except ValueError as error:
            raise LocalDiskError(f"{self.data_dir.distribution} is {error}") from None
        # Nobody else writes it now, so a last line without newline is all that will come.
        return found.settled(found).listings

    def _check(self, listing: Listing) -> Manifest | None:
        """The manifest of a version that is listed, if its shards are all there."""
        file = self.data_dir.manifest(listing.number)
        manifest = parse_manifest(file.read_bytes(), listing.version) if file.exists() else None
        if manifest and listing.digest not in manifest.digests.values():
            raise ManifestError("its manifest has another digest")
        looks = self._looks(listing.number)
        if looks:
            if manifest is None or looks_of(self.data_dir.payload(listing.number)) != looks:
                raise LocalDiskError("its file was changed after it was published without a copy")
            return manifest
        count = len(manifest.shards) if manifest else listing.shards
        for shard in range(1, (1 if count is None else count) + 1):
            path = self.data_dir.shard(listing.number, shard)
            if not path.is_file():
                raise LocalDiskError(f"{path.name} is missing")
            if manifest and path.stat().st_size != manifest.shards[shard - 1].size:
                raise LocalDiskError(f"{path.name} has {path.stat().st_size} bytes")
        for shard, (sha256, looks) in self._verified(listing.number).read().items():
            path = self.data_dir.shard(listing.number, shard)
            if path.exists() and looks_of(path) != looks and sha256_of(path) != sha256:
                raise LocalDiskError(f"{path.name} was changed since it was verified")
        return manifest

    def _verified(self, number: int) -> Verified:
        return Verified(self.data_dir.verified / version_name(number))

    def _looks(self, number: int) -> str | None:
        try:
            return (self.data_dir.linked / version_name(number)).read_text()
        except FileNotFoundError:
            return None

    def _take_up_open(self, number: int, resume: bool) -> list[str]:
        folder, file = self.data_dir.folder(number), self.data_dir.manifest(number)
        version = version_name(number)
        if resume and file.exists():
            try:
                opened = self.open(number, _whole_lines(file.read_bytes(), version))
                return [f"going on with {version}: {format_count(len(opened.had), 'shard')} here"]
            except ManifestError:
                pass  # it is asked for again
        if all(is_versions_file(entry) for entry in folder.iterdir()):
            remove_version(folder)
            self._verified(number).remove()
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
        opened = OpenVersion(self.data_dir, number, self._find, self._completed, live, listed)
        self._open[number] = opened
        return opened

    def opened(self, number: int) -> OpenVersion | None:
        """The version under way with this number."""
        return self._open.get(number)

    async def discard(self, number: int) -> None:
        """Give up a version that is open."""
        opened = self._open.pop(number, None)
        if opened:
            opened.live.abort("it was given up before it was complete")
            self.events.tell(ABORTED, version_name(number))
            await asyncio.to_thread(opened.discard)

    async def _completed(self, opened: OpenVersion, manifest: Manifest) -> None:
        listing = Listing(manifest.version, manifest.digests[opened.listed], len(manifest.shards))
        async with self._writing:
            await self._write_list([*self.listings, listing])
            self._open.pop(opened.number, None)
            self._add(listing, manifest)
            if not opened.live.whole:
                opened.live.add(manifest.raw[len(opened.live.raw) :])
            self.events.tell(COMPLETE, listing.version, listing)
        await self.tidy()

    def spans(self, listing: Listing) -> list[Span]:
        """The shards' files of a version without a manifest."""
        spans: list[Span] = []
        while listing.shards is None or len(spans) < listing.shards:
            span = self._unsurveyed_shard(listing.number, len(spans) + 1)
            if span is None:
                break
            spans.append(span)
        return spans

    async def surveyed(self, listing: Listing, manifest: Manifest | None) -> None:
        """Keep the manifest that was made for a version which an old node left here; None when its bytes
        are not what its digest says, so that it goes."""
        if manifest is None:
            self._complete.setdefault(listing.number, _Complete(listing, None))
            await self.retire(listing.number)
        elif listing.number in self._complete or listing in self.untrusted:
            await replace_soon(self.data_dir.manifest(listing.number), manifest.raw)
            async with self._writing:
                known = Listing(listing.version, listing.digest, len(manifest.shards))
                self._add(known, manifest)
                await self._write_list(self.listings)
                self.events.tell(COMPLETE, known.version, known)
        self.untrusted = [one for one in self.untrusted if one != listing]

    def _add(self, listing: Listing, manifest: Manifest | None) -> None:
        looks = self._looks(listing.number)
        self._complete[listing.number] = _Complete(listing, manifest, looks)
        for shard, (sha256, shard_looks) in self._verified(listing.number).read().items():
            file = self.data_dir.shard(listing.number, shard)
            self._by_digest[sha256] = listing.number, file, shard_looks

    def _find(self, sha256: str) -> Path | None:
        """The file of a shard with this digest in a complete version, unchanged since it was kept."""
        number, file, looks = self._by_digest.get(sha256, (0, Path(), ""))
        return file if number in self._complete and looks_of(file) == looks else None

    async def _write_list(self, listings: Sequence[Listing]) -> None:
        distribution = write(listings)
        await replace_soon(self.data_dir.distribution, distribution)
        self._distribution = distribution

    # How it goes

    async def tidy(self) -> None:
        """Retire what is beyond retention and not being read."""
        now = self._clock()
        beyond = surplus(self._complete, self.keep)
        self._surplus_since = {number: self._surplus_since.get(number, now) for number in beyond}
        last_read = {**self._last_read, **dict.fromkeys(self._readers, math.inf)}
        for number in retirable(beyond, last_read, self._surplus_since, now, RECENTLY_READ, LONGEST_HOLD):
            log.info("retired %s: newer versions took its place", version_name(number))
            await self.retire(number)
        for number in list(self._leaving):
            await self._remove(number)
        for number, one in list(self._complete.items()):
            if one.looks and looks_of(self.data_dir.payload(number)) != one.looks:
                self._changed(number)

    async def retire(self, number: int) -> None:
        """Take a version off the list, then away. Answers that are running end well."""
        async with self._writing:
            if number not in self._complete:
                return
            await self._write_list([one for one in self.listings if one.number != number])
            del self._complete[number]
            self.events.tell(RETIRED, version_name(number))
        self._last_read.pop(number, None)
        self._by_digest = {digest: place for digest, place in self._by_digest.items() if place[0] != number}
        await self._remove(number)

    async def _remove(self, number: int) -> None:
        """What can't be removed now is tried again when things are tidied."""

        def remove() -> None:
            folder = self.data_dir.folder(number)
            if folder.exists():
                grave = self.data_dir.retired / f"{version_name(number)}-{secrets.token_hex(4)}"
                folder.rename(grave)
                shutil.rmtree(grave, ignore_errors=True)
            (self.data_dir.linked / version_name(number)).unlink(missing_ok=True)
            self._verified(number).remove()

        try:
            await asyncio.to_thread(remove)
            self._leaving.discard(number)
        except OSError as error:
            if number not in self._leaving:
                log.error("could not remove the retired %s, and try again: %s", version_name(number), error)
            self._leaving.add(number)


def _whole_lines(raw: bytes, version: str) -> LiveManifest:
    """
    Raises:
        ManifestError: they are no manifest's, or not even a first line is whole.
    """
    live = LiveManifest(version)
    live.add(raw[: raw.rfind(b"\n") + 1])
    if not live.begun:
        raise ManifestError("its first line is not whole")
    return live
