"""The complete versions of a data directory, and their distribution list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from dataclasses import replace as replace_fields
from pathlib import Path

from shardcast.file_identity import FileIdentity
from shardcast.filesystem import replace, replace_in_thread
from shardcast.protocol.distribution import Listing, encode
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.wire import version_number
from shardcast.store.data_dir import DataDir
from shardcast.store.interfaces import Span
from shardcast.store.linked_files import LinkedFiles
from shardcast.store.verified import VerificationRecord, recorded_identity
from shardcast.store.version_place import VersionPlace


@dataclass(frozen=True)
class CompleteVersion:
    """A complete version.

    Attributes:
        listing: the version's line in the list.
        manifest: the manifest; None for a version of an old node, until surveyed.
        size: bytes of the payload.
        place: the version's place on the disk.
        linked: files published without a copy, with their identities at their verification.
        verified: number and file identity of each verified shard, by SHA-256.
    """

    listing: Listing
    manifest: Manifest | None
    size: int
    place: VersionPlace
    _: KW_ONLY
    linked: LinkedFiles = field(default_factory=LinkedFiles)
    verified: Mapping[str, tuple[int, FileIdentity]] = field(default_factory=dict)

    @property
    def digests(self) -> set[str]:
        """The payload's digests, by all algorithms of listing and manifest."""
        return {self.listing.digest, *(self.manifest.digests.values() if self.manifest else ())}

    def shard(self, shard: int) -> Span | None:
        """Return the place of a shard; None for a number without shard, or after a change of the linked file.

        With a manifest, a shard's own file is not looked for.
        """
        if self.manifest is None:
            return _file_span(self.place.shard(shard))
        if not 1 <= shard <= len(self.manifest.shards):
            return None
        found = self.manifest.shards[shard - 1]
        linked = self.linked.find(shard, self.manifest.shards)
        if linked is None:
            return Span(self.place.shard(shard), 0, found.size, found.sha256)
        file, offset = linked
        return None if file.is_changed else Span(file.path, offset, found.size, found.sha256)

    @property
    def payload_changed(self) -> bool:
        """Whether the identity of a file published without a copy differs from the verified one; blocks."""
        return bool(self.linked.changed)

    def find(self, sha256: str) -> Path | None:
        """Return the unchanged file of a verified shard with this SHA-256; None where there is none."""
        shard, identity = self.verified.get(sha256, (0, None))
        file = self.place.shard(shard) if shard else None
        return file if file and recorded_identity(file) == identity else None


def unsurveyed_spans(place: VersionPlace, listing: Listing) -> list[Span]:
    """Return the shards' files of a version without a manifest, up to the first missing one."""
    spans: list[Span] = []
    while listing.shards is None or len(spans) < listing.shards:
        span = _file_span(place.shard(len(spans) + 1))
        if span is None:
            break
        spans.append(span)
    return spans


def _file_span(file: Path) -> Span | None:
    """Return a whole file as a span without a digest; None for a missing file, or one of unknown size."""
    try:
        return Span(file, 0, file.stat().st_size, None)
    except OSError:
        return None


def read_complete(place: VersionPlace, listing: Listing, manifest: Manifest | None) -> CompleteVersion:
    """Return the complete version in a place with checked files; blocks on the disk.

    Args:
        place: the place.
        listing: the version's line in the list; the result's listing also has the manifest's identity.
        manifest: the manifest; None for a version of an old node.
    """
    size = manifest.size if manifest else sum(span.length for span in unsurveyed_spans(place, listing))
    listing = replace_fields(listing, manifest=manifest.identity if manifest else None)
    record = VerificationRecord(place.verified).read()
    verified = {sha256: (shard, identity) for shard, (sha256, identity) in record.items()}
    return CompleteVersion(listing, manifest, size, place, linked=place.linked_files, verified=verified)


class CompleteVersions:
    """The complete versions and their list, written to the disk before a version counts.

    The event loop changes them while threads look for shards (``find``): ``_versions`` is replaced by a
    changed copy, so a thread goes on with the versions of its beginning.

    Attributes:
        distribution: the bytes of the list on the disk.
    """

    def __init__(self, data_dir: DataDir) -> None:
        self.distribution = b""
        self._data_dir = data_dir
        self._versions: dict[int, CompleteVersion] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._versions

    @property
    def numbers(self) -> set[int]:
        """The numbers of the versions."""
        return set(self._versions)

    @property
    def versions(self) -> list[CompleteVersion]:
        """The versions, oldest first."""
        return [complete for _, complete in sorted(self._versions.items())]

    @property
    def listings(self) -> tuple[Listing, ...]:
        """The lines of the list, oldest first."""
        return tuple(complete.listing for complete in self.versions)

    def get(self, version: str) -> CompleteVersion | None:
        """Return the complete version with this name; None where there is none."""
        return self._versions.get(version_number(version) or 0)

    def find(self, sha256: str) -> Path | None:
        """Return the unchanged file of a verified shard with this SHA-256, or None; for any thread."""
        found = (complete.find(sha256) for complete in self._versions.values())
        return next((file for file in found if file), None)

    # How they change

    def take_up(self, complete: CompleteVersion) -> None:
        """Count a version as complete, in place of one with its number; the list on the disk stays."""
        self._versions = {**self._versions, complete.listing.number: complete}

    def take_up_all(self, versions: Iterable[CompleteVersion], distribution: bytes) -> None:
        """Count these versions and no others; their list is on the disk."""
        self._versions = {complete.listing.number: complete for complete in versions}
        self.distribution = distribution

    def write_list(self) -> None:
        """Replace the list on the disk where different; blocks.

        Raises:
            LocalDiskError: the list could not be written.
        """
        self.distribution = encode(self.listings)
        file = self._data_dir.distribution
        if not file.exists() or file.read_bytes() != self.distribution:
            replace(file, self.distribution)

    async def add(self, complete: CompleteVersion) -> None:
        """List a version, in the place of a listed version with the same number.

        Raises:
            LocalDiskError: the list could not be written.
        """
        number = complete.listing.number
        await self._write(
            [*(listing for listing in self.listings if listing.number != number), complete.listing]
        )
        self.take_up(complete)

    async def remove(self, number: int) -> CompleteVersion:
        """Take a version off the list, and return it.

        Raises:
            LocalDiskError: the list could not be written.
        """
        await self._write([listing for listing in self.listings if listing.number != number])
        removed = self._versions[number]
        self._versions = {other: complete for other, complete in self._versions.items() if other != number}
        return removed

    async def _write(self, listings: list[Listing]) -> None:
        distribution = encode(sorted(listings, key=lambda listing: listing.number))
        await replace_in_thread(self._data_dir.distribution, distribution)
        self.distribution = distribution
