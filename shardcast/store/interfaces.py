"""The contract between filling and serving.

``transfer`` writes only to a ``ShardSink``, ``server`` reads only from a ``Shelf``, so neither knows the
other, nor whether the bytes lie in version folders or in the output file of a client.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shardcast.protocol.feed import Event
from shardcast.protocol.manifest import Manifest, Shard
from shardcast.store.events import Events
from shardcast.store.holds import Reader
from shardcast.store.landing import Landing
from shardcast.store.live_manifest import LiveManifest

Confirm = Callable[[Manifest], Awaitable[None]]
"""Awaited with the verified version, before it gets its name; raises to refuse the name."""


@dataclass(frozen=True, slots=True)
class Span:
    """A range of a file.

    Attributes:
        path: the file.
        offset: the first byte.
        length: the number of bytes.
        digest: their SHA-256 in hex; None for unknown.
    """

    path: Path
    offset: int
    length: int
    digest: str | None


class BlobReader(Protocol):
    """An open, verified blob.

    Attributes:
        size: bytes of the blob.
        span: place of the unchanged bytes in a file; None if they are in no file.
    """

    size: int
    span: Span | None

    async def read(self, max_bytes: int) -> bytes:
        """Return the next bytes, ``max_bytes`` at the most; none at the end of the blob.

        Raises:
            IntegrityError: the bytes don't have the blob's digest (only where they come from elsewhere).
        """


class Shelf(Protocol):
    """The served versions of a node."""

    @property
    def events(self) -> Events:
        """The events of the versions."""

    def versions_now(self) -> list[Event]:
        """Return an event for every local, known or withdrawn version, with its present state."""

    def distribution(self) -> bytes:
        """Return the bytes of the distribution list."""

    def manifest(self, version: str) -> bytes | None:
        """Return a complete version's manifest, verbatim; None where there is none."""

    def manifest_of(self, version: str) -> Manifest | None:
        """Return a complete version's manifest; None where there is none."""

    def live(self, version: str) -> LiveManifest | None:
        """Return an open version's growing manifest; None where there is none."""

    def shard(self, version: str, number: int) -> Span | None:
        """Return where a whole and verified shard lies; None where there is none (yet)."""

    def shard_of_another_line(self, version: str, number: int, if_match: str) -> Span | None:
        """Return the place of the shard named by an ``If-Match``, of a version of another line.

        Args:
            version: the version's name; a version of the current line may have the same.
            number: number of the shard.
            if_match: the header, with the shard's digest.

        Returns:
            The shard's span; None where no local version of this name has such a shard.
        """

    def in_doubt(self, version: str) -> bool:
        """Return whether a complete version is not served before its payload is hashed again."""

    def landing(self, version: str, number: int) -> Landing | None:
        """Return an arriving shard; None for others."""

    def landings(self, version: str) -> Mapping[int, Landing]:
        """Return the arriving shards of an open version, by their numbers."""

    def verified_counts(self, version: str) -> tuple[int, int]:
        """Return how many shards and bytes of a version are here, verified."""

    async def wait_for_shard(self, version: str, number: int) -> None:
        """Have a shard of an open version fetched next, and wait until it is here or begins to arrive.

        Returns at once for a version that is not open.
        """

    def has(self, version: str) -> bool:
        """Return whether a version is here, complete or open."""

    def reading(self, version: str, client: str) -> AbstractContextManager[Reader]:
        """Enter an answer to ``client`` with bytes of a version, and keep the version meanwhile.

        The answer adds the sent bytes to the reader.
        """

    def leased(self, version: str, client: str) -> AbstractContextManager[bool]:
        """Enter a lease of ``client``, and keep the version meanwhile; False for a missing version."""


class ShardSink(Protocol):
    """A version filled by a transfer."""

    async def landing(self, shard: Shard) -> Landing:
        """Return the landing of a shard, with the local bytes of the shard.

        Raises:
            LocalDiskError: there is no room for the shard.
        """

    async def next_wanted(self) -> Shard:
        """Wait for the next shard requested by a local reader, and return it."""

    async def commit_shard(self, landing: Landing) -> None:
        """Keep a shard whose pieces are all verified.

        Raises:
            IntegrityError: the shard has another SHA-256 than in the manifest.
            LocalDiskError: the disk failed.
        """

    async def complete(self, manifest: Manifest) -> None:
        """Give the verified version its final name.

        Raises:
            ShardcastError: the version was withdrawn, or the receiver refused it.
            LocalDiskError: the disk failed.
        """
