"""The contract between filling and serving.

``transfer`` writes only to a ``ShardSink``, ``server`` reads only from a ``Shelf``, so neither knows the
other, nor whether the bytes lie in version folders or in the output file of a client.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
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
"""Awaited before a version gets its name, once all of it is verified; raises where it must not."""


@dataclass(frozen=True, slots=True)
class Span:
    """Where bytes lie.

    Attributes:
        path: the file.
        offset: where in it they begin.
        length: how many they are.
        digest: their SHA-256 in hex, where it is known.
    """

    path: Path
    offset: int
    length: int
    digest: str | None


class BlobReader(Protocol):
    """A blob that is being read; its bytes were verified.

    Attributes:
        size: its bytes.
        span: where they lie, whole and as they are; None where they lie in no file.
    """

    size: int
    span: Span | None

    async def read(self, most: int) -> bytes:
        """The next bytes, ``most`` at the most; none at its end.

        Raises:
            IntegrityError: they are not what the digest says (only where they come from elsewhere).
        """


class Shelf(Protocol):
    """What a node serves."""

    @property
    def events(self) -> Events:
        """What happens to its versions."""

    def versions_now(self) -> list[Event]:
        """An event for every version that is here, as the last one that happened to it."""

    def distribution(self) -> bytes:
        """The distribution list, as it goes out."""

    def manifest(self, version: str) -> bytes | None:
        """A complete version's manifest, verbatim; None where there is none."""

    def live(self, version: str) -> LiveManifest | None:
        """An open version's manifest, as it grows; None where there is none."""

    def shard(self, version: str, number: int) -> Span | None:
        """Where a shard lies that is whole and verified; None where it isn't (yet)."""

    def shard_of_another_line(self, version: str, number: int, if_match: str) -> Span | None:
        """Return the shard that an ``If-Match`` names by its digest, of a version with this name that is not
        of the current line any more; None where there is none."""

    def in_doubt(self, version: str) -> bool:
        """Whether a complete version is not served until its bytes have been looked into."""

    def landing(self, version: str, number: int) -> Landing | None:
        """A shard that is arriving; None where it isn't."""

    async def arrival(self, version: str, number: int) -> None:
        """Wait until a shard of an open version is there, or begins to arrive; it goes before others."""

    def has(self, version: str) -> bool:
        """Whether the version is here, complete or open."""

    def reading(self, version: str, by: str) -> AbstractContextManager[Reader]:
        """Entered while somebody reads from the version, which then stays; the reader counts what it got."""

    def leased(self, version: str, by: str) -> AbstractContextManager[bool]:
        """Entered by somebody for whom the version is to stay; False when it isn't here."""


class ShardSink(Protocol):
    """One version that is being filled, by a transfer."""

    async def landing(self, shard: Shard) -> Landing:
        """Where a shard goes, with what is there of it already.

        Raises:
            LocalDiskError: there is no room for it.
        """

    async def wanted(self) -> Shard:
        """Wait for somebody to wait for a shard: which one."""

    async def shelve(self, landing: Landing) -> None:
        """Take a shard all of whose pieces are there.

        Raises:
            LocalDiskError: the disk failed.
        """

    async def complete(self, manifest: Manifest) -> None:
        """Give the version its final name: the whole payload is right.

        Raises:
            LocalDiskError: the disk failed.
        """
