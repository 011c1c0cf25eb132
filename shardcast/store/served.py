"""The versions of a data directory as they are served: a Shelf."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from shardcast.protocol.distribution import Listing
from shardcast.protocol.feed import COMPLETE, KNOWN, OPEN, WITHDRAWN, Event
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.wire import version_name, version_number
from shardcast.store.aside import AsideVersions
from shardcast.store.completed import Complete, CompleteVersions, unsurveyed_spans
from shardcast.store.data_dir import DataDir
from shardcast.store.disk_usage import DiskUsage
from shardcast.store.events import Events
from shardcast.store.holds import LEASE, READ, Holds, Reader
from shardcast.store.interfaces import Span
from shardcast.store.landing import Landing
from shardcast.store.line_record import LineRecord
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.open_version import OpenVersion

log = logging.getLogger(__name__)


class ServedVersions:
    """What is here of the current line, and who reads it.

    All of it is changed by the event loop alone, after ``load``: a thread makes a value, and the loop puts it
    in its place. What a thread reads (``_find``) is replaced as a whole.

    Attributes:
        data_dir: the directory.
        holds: who holds which version.
        events: what happens to them.
        line: the record of the line that is here.
        own_line: whether versions are published here, so that nobody else decides what the line has.
        aside: versions of other lines.
        usage: what all of them take on the disk; threads add to it.
        known: versions that the authority lists and that are not complete here, by number.
        untrusted: versions that an old middle left here, which verified nothing; not served.
    """

    def __init__(self, data_dir: DataDir, clock: Callable[[], float] = time.monotonic) -> None:
        self.data_dir = data_dir
        self.holds = Holds(clock)
        self.events = Events()
        self.line = LineRecord()
        self.own_line = True
        self.usage = DiskUsage()
        self.aside = AsideVersions(data_dir, clock, self.usage)
        self._clock = clock
        self.known: dict[int, Listing] = {}
        self.untrusted: list[Listing] = []
        self._was_held = True
        self._complete = CompleteVersions(data_dir, self._changed)
        self._open: dict[
            int, OpenVersion
        ] = {}  # changed by the event loop only, and by load() before it runs
        self._hidden: set[int] = set()  # open versions that neither list nor feed tells of
        self._withdrawn: dict[int, Complete] = {}  # whose files are still here

    @property
    def held(self) -> bool:
        """Whether the directory at the path is the one that is held. Whoever follows is told anew what is
        here when that changes."""
        held = self.data_dir.held
        if held != self._was_held:
            self._was_held = held
            if held:
                log.warning("the data directory %s is back, and is served again", self.data_dir.root)
            else:
                log.error("%s", self.data_dir.lost)
            self.events.restart()
        return held

    @property
    def unready(self) -> str | None:
        """Why the directory can't be relied on, for ``/ready``; None where it can."""
        return None if self.held else self.data_dir.lost

    @property
    def listings(self) -> tuple[Listing, ...]:
        """The complete versions, oldest first."""
        return self._complete.listings

    @property
    def complete_numbers(self) -> set[int]:
        return self._complete.numbers

    @property
    def open_numbers(self) -> set[int]:
        """The versions that are being published or received, without those that are hidden."""
        return self._open.keys() - self._hidden

    @property
    def hidden_numbers(self) -> set[int]:
        """The versions that are here, whole or in part, though the authority does not list them."""
        return set(self._hidden)

    @property
    def provisional(self) -> set[int]:
        """The complete versions that were taken on another server's word than the authority's."""
        return {one.number for one in self.listings if self._is_provisional(one.number, {one.digest})}

    @property
    def unsurveyed(self) -> list[Listing]:
        """Versions whose manifest is still to be made, newest first."""
        return [one for one in reversed(self.listings) if self.manifest_of(one.version) is None]

    def distribution(self) -> bytes:
        return self._complete.distribution if self.held else b""

    def versions_now(self) -> list[Event]:
        if not self.held:
            return []
        seq = self.events.seq
        events = [Event(seq, COMPLETE, one.version, one) for one in self.listings]
        events += [Event(seq, KNOWN, one.version, one) for _, one in sorted(self.known.items())]
        events += [Event(seq, OPEN, version_name(number)) for number in sorted(self.open_numbers)]
        for _, one in sorted(self.line.withdrawn.items()):
            events.append(
                Event(seq, WITHDRAWN, one.version, Listing(one.version, one.digest, None), one.reason)
            )
        return events

    def live(self, version: str) -> LiveManifest | None:
        """The manifest of a version that is open and whose single shards can be verified."""
        opened = self.opened(version_number(version) or 0)
        return opened.live if opened and (opened.live.raw or not opened.live.begun) else None

    def manifest_of(self, version: str) -> Manifest | None:
        """The manifest of a complete version."""
        complete = self._complete.get(version)
        return complete.manifest if complete else None

    def manifest(self, version: str) -> bytes | None:
        manifest = self.manifest_of(version) if self.held else None
        return manifest.raw if manifest else None

    def shard(self, version: str, number: int) -> Span | None:
        if not self.held:
            return None
        opened = self.opened(version_number(version) or 0)
        return opened.shard(number) if opened else self._complete.shard(version, number)

    def shard_of_another_line(self, version: str, number: int, if_match: str) -> Span | None:
        return self.aside.shard(version, number, if_match) if self.held else None

    def landing(self, version: str, number: int) -> Landing | None:
        opened = self.opened(version_number(version) or 0)
        return opened.landings.get(number) if opened else None

    async def arrival(self, version: str, number: int) -> None:
        opened = self.opened(version_number(version) or 0)
        if opened:
            await opened.arrival(number)

    def opened(self, number: int) -> OpenVersion | None:
        """The version under way with this number, hidden or not."""
        return self._open.get(number)

    def spans(self, listing: Listing) -> list[Span]:
        """The shards' files of a version without a manifest."""
        return unsurveyed_spans(self.data_dir.place(listing.number), listing)

    def had(self, version: str) -> tuple[int, int]:
        """How many shards and bytes of a version are here, verified."""
        opened, complete = self.opened(version_number(version) or 0), self._complete.get(version)
        if opened:
            return len(opened.had), opened.bytes_here
        return (complete.listing.shards or 0, complete.size) if complete else (0, 0)

    def has(self, version: str) -> bool:
        return self._here(version) is not None

    # Who reads

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

    def _is_provisional(self, number: int, digests: set[str]) -> bool:
        return not self.own_line and not any(self.line.vouches(number, one) for one in digests)

    def in_doubt(self, version: str) -> bool:
        """Whether a complete version is not served until its bytes have been looked into."""
        raise NotImplementedError

    def _changed(self, number: int) -> None:
        """Look into a payload that was published without a copy and does not look as it did."""
        raise NotImplementedError
