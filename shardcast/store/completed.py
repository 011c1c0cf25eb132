"""The complete versions of a data directory, and the list that offers them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from dataclasses import replace as replace_fields
from pathlib import Path

from shardcast.file_identity import FileIdentity
from shardcast.filesystem import replace, replace_soon
from shardcast.protocol.distribution import Listing, write
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.wire import version_number
from shardcast.store.data_dir import DataDir
from shardcast.store.interfaces import Span
from shardcast.store.verified import VerificationRecord, recorded_identity
from shardcast.store.version_place import VersionPlace


@dataclass(frozen=True)
class Complete:
    """A complete version.

    Attributes:
        listing: its line in the list.
        manifest: None for what an old node left here, until it was surveyed.
        size: bytes of its payload.
        place: where it lies.
        looks: what an adopted payload looked like when it was published; None where shards are files.
        verified: shard number and state of the file of each verified shard, by SHA-256.
    """

    listing: Listing
    manifest: Manifest | None
    size: int
    place: VersionPlace
    looks: FileIdentity | None = None
    verified: Mapping[str, tuple[int, FileIdentity]] = field(default_factory=dict)

    @property
    def digests(self) -> set[str]:
        """The payload's digests, by every algorithm that is known of it."""
        return {self.listing.digest, *(self.manifest.digests.values() if self.manifest else ())}

    def shard(self, shard: int) -> Span | None:
        """Return where a shard lies; None where there is none, or an adopted payload looks otherwise."""
        if self.manifest is None:
            return _file_span(self.place.shard(shard))
        if not 1 <= shard <= len(self.manifest.shards):
            return None
        found = self.manifest.shards[shard - 1]
        if self.looks is None:
            return Span(self.place.shard(shard), 0, found.size, found.sha256)
        return None if self.changed else Span(self.place.payload, found.offset, found.size, found.sha256)

    @property
    def changed(self) -> bool:
        """Whether its adopted payload does not look as it did when it was verified."""
        return self.looks is not None and recorded_identity(self.place.payload) != self.looks

    def find(self, sha256: str) -> Path | None:
        """Return the file of a shard with this digest, unchanged since it was verified."""
        shard, looks = self.verified.get(sha256, (0, None))
        file = self.place.shard(shard) if shard else None
        return file if file and recorded_identity(file) == looks else None


def unsurveyed_spans(place: VersionPlace, listing: Listing) -> list[Span]:
    """Return the shards' files of a version without a manifest, as far as they are here."""
    spans: list[Span] = []
    while listing.shards is None or len(spans) < listing.shards:
        span = _file_span(place.shard(len(spans) + 1))
        if span is None:
            break
        spans.append(span)
    return spans


def _file_span(file: Path) -> Span | None:
    try:
        return Span(file, 0, file.stat().st_size, None)
    except OSError:
        return None


def read_complete(place: VersionPlace, listing: Listing, manifest: Manifest | None) -> Complete:
    """Return a version whose files were checked, as it counts from now on; blocks on the disk."""
    size = manifest.size if manifest else sum(one.length for one in unsurveyed_spans(place, listing))
    listing = replace_fields(listing, manifest=manifest.identity if manifest else None)
    record = VerificationRecord(place.verified).read()
    verified = {sha256: (shard, looks) for shard, (sha256, looks) in record.items()}
    return Complete(listing, manifest, size, place, place.looks, verified)


class CompleteVersions:
    """They and their list, which is on the disk before a version counts.

    The event loop changes them while threads look for shards (``find``): ``_versions`` is replaced by a
    changed copy, so that a thread goes on with the versions that were there when it began.

    Attributes:
        distribution: the list, as it is on the disk.
    """

    def __init__(self, data_dir: DataDir) -> None:
        self.distribution = b""
        self._data_dir = data_dir
        self._versions: dict[int, Complete] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._versions

    @property
    def numbers(self) -> set[int]:
        return set(self._versions)

    @property
    def versions(self) -> list[Complete]:
        """The versions, oldest first."""
        return [complete for _, complete in sorted(self._versions.items())]

    @property
    def listings(self) -> tuple[Listing, ...]:
        """The lines of the list, oldest first."""
        return tuple(complete.listing for complete in self.versions)

    def get(self, version: str) -> Complete | None:
        return self._versions.get(version_number(version) or 0)

    def find(self, sha256: str) -> Path | None:
        """The file of a shard with this digest, unchanged since it was kept."""
        found = (one.find(sha256) for one in self._versions.values())
        return next((file for file in found if file), None)

    # How they change

    def take_up(self, complete: Complete) -> None:
        """Count a version that is on the list already."""
        self._versions = {**self._versions, complete.listing.number: complete}

    def take_up_all(self, versions: Iterable[Complete], distribution: bytes) -> None:
        """Count these and no others; the list that offers them is on the disk."""
        self._versions = {one.listing.number: one for one in versions}
        self.distribution = distribution

    def write_list(self) -> None:
        """Put the list on the disk where it isn't there as it is; blocks."""
        self.distribution = write(self.listings)
        file = self._data_dir.distribution
        if not file.exists() or file.read_bytes() != self.distribution:
            replace(file, self.distribution)

    async def add(self, complete: Complete) -> None:
        """List a version; it takes the place of one with the same number.

        Raises:
            LocalDiskError: the list could not be written.
        """
        number = complete.listing.number
        await self._write([*(one for one in self.listings if one.number != number), complete.listing])
        self.take_up(complete)

    async def remove(self, number: int) -> Complete:
        """Take a version off the list, and return it.

        Raises:
            LocalDiskError: the list could not be written.
        """
        await self._write([one for one in self.listings if one.number != number])
        removed = self._versions[number]
        self._versions = {one: complete for one, complete in self._versions.items() if one != number}
        return removed

    async def _write(self, listings: list[Listing]) -> None:
        distribution = write(sorted(listings, key=lambda one: one.number))
        await replace_soon(self._data_dir.distribution, distribution)
        self.distribution = distribution
