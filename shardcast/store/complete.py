"""The complete versions of a data directory, and the list that offers them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from pathlib import Path

from shardcast.distribution import Listing, write
from shardcast.manifest import Manifest
from shardcast.store.data_dir import DataDir
from shardcast.store.durable import replace, replace_soon
from shardcast.store.shelf import Span
from shardcast.store.verified import Verified, looks_of
from shardcast.wire import version_number


@dataclass(frozen=True)
class Complete:
    """A complete version.

    Attributes:
        listing: its line in the list.
        manifest: None for what an old node left here, until it was surveyed.
        size: bytes of its payload.
        looks: what an adopted payload looked like when it was published; None where shards are files.
    """

    listing: Listing
    manifest: Manifest | None
    size: int
    looks: str | None = None


class CompleteVersions:
    """They and their list, which is on the disk before a version counts.

    Attributes:
        distribution: the list, as it is on the disk.
    """

    def __init__(self, data_dir: DataDir, changed: Callable[[int], None]) -> None:
        """``changed`` is told of a version whose adopted payload was written to."""
        self.distribution = b""
        self._data_dir = data_dir
        self._changed = changed
        self._versions: dict[int, Complete] = {}
        self._by_digest: dict[str, tuple[int, Path, str]] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._versions

    @property
    def numbers(self) -> set[int]:
        return set(self._versions)

    @property
    def listings(self) -> tuple[Listing, ...]:
        """Oldest first."""
        return tuple(one.listing for _, one in sorted(self._versions.items()))

    @property
    def sizes(self) -> dict[int, int]:
        """Bytes of each."""
        return {number: one.size for number, one in self._versions.items()}

    def get(self, version: str) -> Complete | None:
        return self._versions.get(version_number(version) or 0)

    def shard(self, version: str, shard: int) -> Span | None:
        """Where a shard lies; None where there is none, or its payload was changed."""
        complete = self.get(version)
        if complete is None:
            return None
        if complete.manifest is None:
            return self._unsurveyed_shard(complete.listing, shard)
        if not 1 <= shard <= len(complete.manifest.shards):
            return None
        one = complete.manifest.shards[shard - 1]
        number = complete.listing.number
        if complete.looks is None:
            return Span(self._data_dir.shard(number, shard), 0, one.size, one.sha256)
        payload = self._data_dir.payload(number)
        if looks_of(payload) != complete.looks:
            self._changed(number)
            return None
        return Span(payload, one.offset, one.size, one.sha256)

    def spans(self, listing: Listing) -> list[Span]:
        """The shards' files of a version without a manifest."""
        spans: list[Span] = []
        while listing.shards is None or len(spans) < listing.shards:
            span = self._unsurveyed_shard(listing, len(spans) + 1)
            if span is None:
                break
            spans.append(span)
        return spans

    def _unsurveyed_shard(self, listing: Listing, shard: int) -> Span | None:
        file = self._data_dir.shard(listing.number, shard)
        try:
            return Span(file, 0, file.stat().st_size, None)
        except OSError:
            return None

    def find(self, sha256: str) -> Path | None:
        """The file of a shard with this digest, unchanged since it was kept."""
        number, file, looks = self._by_digest.get(sha256, (0, Path(), ""))
        return file if number in self._versions and looks_of(file) == looks else None

    def check_payloads(self) -> None:
        """Look whether adopted payloads are what they were."""
        for number, one in list(self._versions.items()):
            if one.looks and looks_of(self._data_dir.payload(number)) != one.looks:
                self._changed(number)

    # How they change

    def take_up(self, listing: Listing, manifest: Manifest | None) -> None:
        """Count a version that is on the list already."""
        size = manifest.size if manifest else sum(span.length for span in self.spans(listing))
        looks = self._data_dir.looks(listing.number)
        listing = replace_fields(listing, manifest=manifest.identity if manifest else None)
        self._versions[listing.number] = Complete(listing, manifest, size, looks)
        verified = Verified(self._data_dir.verified / listing.version).read()
        for shard, (sha256, shard_looks) in verified.items():
            file = self._data_dir.shard(listing.number, shard)
            self._by_digest[sha256] = listing.number, file, shard_looks

    def write_list(self) -> None:
        """Put the list on the disk where it isn't there as it is; blocks."""
        self.distribution = write(self.listings)
        file = self._data_dir.distribution
        if not file.exists() or file.read_bytes() != self.distribution:
            replace(file, self.distribution)

    async def add(self, listing: Listing, manifest: Manifest) -> None:
        """List a version; it takes the place of one with the same number.

        Raises:
            LocalDiskError: the list could not be written.
        """
        others = [one for one in self.listings if one.number != listing.number]
        await self._write([*others, listing])
        self.take_up(listing, manifest)

    async def remove(self, number: int) -> None:
        """Take a version off the list.

        Raises:
            LocalDiskError: the list could not be written.
        """
        await self._write([one for one in self.listings if one.number != number])
        del self._versions[number]
        self._by_digest = {digest: place for digest, place in self._by_digest.items() if place[0] != number}

    async def _write(self, listings: list[Listing]) -> None:
        distribution = write(sorted(listings, key=lambda one: one.number))
        await replace_soon(self._data_dir.distribution, distribution)
        self.distribution = distribution
