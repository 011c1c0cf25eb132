"""A version of another line in its folder: reading, serving and finishing the version."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace

from shardcast.directories import sync_folder
from shardcast.errors import LocalDiskError
from shardcast.protocol.distribution import Listing
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.manifest_reader import ManifestError
from shardcast.protocol.manifest_reader import parse as parse_manifest
from shardcast.protocol.wire import version_name
from shardcast.store.aside_place import open_mark, parse_aside_name
from shardcast.store.completed import CompleteVersion, read_complete
from shardcast.store.interfaces import Span
from shardcast.store.line_record import LineRecord
from shardcast.store.recovery import check_version
from shardcast.store.version_place import VersionPlace

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AsideVersion:
    """A version of another line.

    Attributes:
        origin: the origin id of the version's line.
        complete: listing, manifest (None without one), size and files.
        finished: whether the version is complete and verified.
        since: time of putting aside, in seconds by the clock of the directory.
        pinned: whether a pin keeps the version.
        withdrawn: whether the publisher withdrew the version; then it is not served.
    """

    origin: str | None
    complete: CompleteVersion
    finished: bool
    since: float
    pinned: bool = False
    withdrawn: bool = False

    @property
    def place(self) -> VersionPlace:
        """The version's place."""
        return self.complete.place

    @property
    def number(self) -> int:
        """The version's number; a version of the current line may have the same."""
        return self.complete.listing.number

    def span(self, shard: int) -> Span | None:
        """Return the place of a verified shard; None for a missing or unserved one."""
        manifest = self.complete.manifest
        if self.withdrawn or manifest is None or not 1 <= shard <= len(manifest.shards):
            return None
        span = self.complete.shard(shard)
        if span is None or self.finished:
            return span
        found = self.complete.find(span.digest or "")
        return span if found == span.path else None


def read_aside(place: VersionPlace, record: LineRecord, since: float) -> AsideVersion:
    """Return the version in a place, after a check of its files unless it is marked as open; blocks.

    Args:
        place: the place.
        record: the record of the version's line.
        since: time of putting aside, by the clock of the directory.

    Raises:
        OSError: the version can't be read.
    """
    found = parse_aside_name(place.folder.name)
    assert found
    number, start = found
    manifest = _manifest(place, number)
    digests = [digest for digest in manifest.digests.values() if digest.startswith(start)] if manifest else []
    listing = Listing(version_name(number), digests[0] if digests else start, None)
    finished = False
    if digests and not open_mark(place).exists():
        try:
            finished = check_version(place, listing) is not None
        except (LocalDiskError, ManifestError) as error:
            log.warning("%s is not complete any more: %s", place.folder, error)
    if manifest:
        listing = Listing(listing.version, listing.digest, len(manifest.shards), manifest.identity)
    complete = read_complete(place, listing, manifest)
    if not finished:
        size = sum(entry.stat().st_size for entry in place.folder.iterdir())
        complete = replace(complete, size=size)
    withdrawn = record.withdrawal(number, complete.digests) is not None
    return AsideVersion(
        origin=record.origin,
        complete=complete,
        finished=finished,
        since=since,
        pinned=place.pinned.exists(),
        withdrawn=withdrawn,
    )


def finish_aside(place: VersionPlace) -> None:
    """Mark a version received beside as whole, durably; blocks on the disk.

    The time of putting aside is now.

    Raises:
        OSError: the disk failed.
    """
    os.utime(place.folder)
    open_mark(place).unlink(missing_ok=True)
    sync_folder(place.folder.parent)


def _manifest(place: VersionPlace, number: int) -> Manifest | None:
    """Return the manifest of a version; None without a complete one."""
    try:
        return parse_manifest(place.manifest.read_bytes(), version_name(number))
    except (FileNotFoundError, ManifestError):
        return None
