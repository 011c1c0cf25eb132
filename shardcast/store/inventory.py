"""The contents of a data directory of the current line of versions: the state shared by the store's parts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from pathlib import Path

from shardcast.protocol.distribution import Listing
from shardcast.protocol.wire import version_name, version_number
from shardcast.store.aside import AsideVersions
from shardcast.store.completed import CompleteVersion, CompleteVersions
from shardcast.store.data_dir import DataDir
from shardcast.store.disk_usage import DiskUsage
from shardcast.store.events import Events
from shardcast.store.holds import Holds
from shardcast.store.line_record import LineRecord
from shardcast.store.open_version import OpenVersion

log = logging.getLogger(__name__)


class Inventory:
    """The versions of a data directory, by their state.

    After loading, only the event loop changes an inventory: a thread makes a value, and the loop puts the
    value into place. ``find``, called by threads, reads only collections replaced as a whole.

    Attributes:
        data_dir: the directory.
        clock: seconds, for ages and holds.
        events: the events of the versions.
        holds: the holds on each version.
        usage: bytes of all versions on the disk; threads add to the count.
        complete: the complete versions, in the list.
        open: versions being published or received, by number.
        hidden: numbers of open versions outside the list and the feed.
        withdrawn: withdrawn versions with files still here, by number.
        aside: versions of other lines.
        line: the record of the current line.
        own_line: whether versions are published here, so no other node decides on the line.
        known: versions in the authority's list and not complete here, by number.
        untrusted: unverified versions from an old middle; not served.
    """

    def __init__(self, data_dir: DataDir, clock: Callable[[], float]) -> None:
        self.data_dir = data_dir
        self.clock = clock
        self.events = Events()
        self.holds = Holds(clock)
        self.usage = DiskUsage()
        self.complete = CompleteVersions(data_dir)
        self.open: dict[int, OpenVersion] = {}
        self.hidden: set[int] = set()
        self.withdrawn: dict[int, CompleteVersion] = {}
        self.aside = AsideVersions(data_dir, clock, self.usage)
        self.line = LineRecord()
        self.own_line = True
        self.known: dict[int, Listing] = {}
        self.untrusted: list[Listing] = []
        self._was_held = True

    @property
    def held(self) -> bool:
        """Whether the directory at the path is the held one.

        A change restarts the feed, so all followers learn anew of the local versions.
        """
        held = self.data_dir.held
        if held != self._was_held:
            self._was_held = held
            if held:
                log.warning("the data directory %s is back, and is served again", self.data_dir.root)
            else:
                log.error("%s", self.data_dir.lost_reason)
            self.events.begin_feed()
        return held

    @property
    def provisional(self) -> set[int]:
        """Numbers of complete versions on the word of another server than the authority."""
        listings = self.complete.listings
        return {
            listing.number for listing in listings if self.is_provisional(listing.number, {listing.digest})
        }

    @property
    def unlisted(self) -> set[int]:
        """Numbers of withdrawn versions with files here, and of hidden open versions."""
        return {*self.withdrawn, *(self.hidden & self.open.keys())}

    def number_of(self, version: str) -> int | None:
        """Return the number of a version complete or open here; None for any other name."""
        number = version_number(version) or 0
        return number if number in self.complete or number in self.open else None

    def has(self, number: int) -> bool:
        """Return whether a version is complete or open here."""
        return self.number_of(version_name(number)) is not None

    def find(self, sha256: str) -> Path | None:
        """Return the file of a verified shard with this digest, of any line; None where there is none."""
        return self.complete.find(sha256) or self.aside.find(sha256)

    def is_known(self, number: int) -> bool:
        """Return whether the authority lists a version, or did."""
        return number in self.line.digests

    def is_provisional(self, number: int, digests: Collection[str]) -> bool:
        """Return whether the authority has not vouched for a version with one of these payload digests."""
        return not self.own_line and not any(self.line.vouches(number, digest) for digest in digests)

    def may_evict_firm(self, number: int) -> bool:
        """Return whether versions in the authority's list may be retired for an open version.

        Only provisional versions make room otherwise.
        """
        opened = self.open.get(number)
        whole = opened.live.manifest if opened else None
        if number in self.hidden:
            return False
        if opened is None or whole is None or (opened.still_published and not self.is_known(number)):
            return opened is None or opened.may_evict  # its digest is not known yet, or not listed yet
        return not self.is_provisional(number, set(whole.digests.values()))
