"""The shards of version folders as blobs, to be read.

Shards are verified piece by piece when they arrive, with another digest than the one that names them here;
so each is hashed whole once, when it is first asked for by name, and again when its file has changed.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from shardcast.errors import BlobCorrupt, BlobMissing, ReadOnlyStore
from shardcast.manifest import Shard
from shardcast.store.blobs.contract import BlobWriter
from shardcast.store.durable import disk_errors
from shardcast.store.shelf import Span
from shardcast.store.verified import looks_of
from shardcast.store.versions import VersionFolders
from shardcast.wire import version_name

_CHUNK = 1 << 20


@dataclass
class _Known:
    """What is known of a version's shards.

    Attributes:
        shards: as its manifest tells of them, the very list that was looked into.
        numbers: the number of each, by its SHA-256.
        counted: how many were looked at; more come while it is open.
        vouched: what the file of each looked like when its SHA-256 was found right, by that.
    """

    shards: Sequence[Shard]
    numbers: dict[str, int] = field(default_factory=dict)
    counted: int = 0
    vouched: dict[str, str] = field(default_factory=dict)


class VersionBlobs:
    """The shards that are here, whole, by their SHA-256: of complete versions and of those that are open."""

    algorithm = "sha256"

    def __init__(self, folders: VersionFolders) -> None:
        self._folders = folders
        self._known: dict[int, _Known] = {}

    async def size(self, digest: str) -> int | None:
        for _, version, shard in self._places(digest):
            span = self._folders.shard(version, shard)
            if span is not None:
                return span.length
        return None

    @asynccontextmanager
    async def open(self, digest: str) -> AsyncIterator[SpanReader]:
        corrupt = False
        for known, version, shard in self._places(digest):
            with self._folders.reading(version, "a reader of blobs"):
                span = self._folders.shard(version, shard)
                if span is None:
                    continue
                if not await _is_right(known, digest, span):
                    corrupt = True
                    continue
                with disk_errors("could not read", span.path):
                    reader = SpanReader(span)
                try:
                    yield reader
                finally:
                    reader.close()
                return
        if corrupt:
            raise BlobCorrupt(f"the shard with the digest {digest} was changed; remove its version")
        raise BlobMissing(f"no shard here has the digest {digest}")

    async def read_small(self, digests: Sequence[str], most: int) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for digest in digests:  # shards are large, and few
            size = await self.size(digest)
            if size is not None and size <= most:
                try:
                    async with self.open(digest) as reader:
                        found[digest] = await reader.read(size)
                except (BlobMissing, BlobCorrupt):
                    continue
        return found

    def put(self, digest: str | None = None) -> AbstractAsyncContextManager[BlobWriter]:
        raise ReadOnlyStore("shards come with their versions; broadcast a file instead")

    async def delete(self, digest: str) -> bool:
        raise ReadOnlyStore("shards go with their versions")

    async def digests(self) -> AsyncIterator[str]:
        told: set[str] = set()
        for number in self._look():
            for digest, shard in list(self._known[number].numbers.items()):
                if digest not in told and self._folders.shard(version_name(number), shard) is not None:
                    told.add(digest)
                    yield digest

    def _places(self, digest: str) -> list[tuple[_Known, str, int]]:
        """The versions and numbers of the shards that should have this digest."""
        known = [(self._known[number], version_name(number)) for number in self._look()]
        return [(one, version, one.numbers[digest]) for one, version in known if digest in one.numbers]

    def _look(self) -> list[int]:
        """Look at what is new; the versions that are here."""
        for number in self._known.keys() - self._folders.complete_numbers - self._folders.open_numbers:
            del self._known[number]
        here = []
        for number in sorted(self._folders.complete_numbers | self._folders.open_numbers, reverse=True):
            shards = self._shards(number)
            if shards is None:
                continue
            known = self._known.get(number)
            if known is None or known.shards is not shards:
                known = self._known[number] = _Known(shards)
            for shard in shards[known.counted :]:
                if shard.sha256:
                    known.numbers.setdefault(shard.sha256, shard.number)
            known.counted = len(shards)
            here.append(number)
        return here

    def _shards(self, number: int) -> Sequence[Shard] | None:
        opened = self._folders.opened(number)
        if opened:
            return opened.live.shards
        manifest = self._folders.manifest_of(version_name(number))
        return manifest.shards if manifest else None


async def _is_right(known: _Known, digest: str, span: Span) -> bool:
    """Whether the shard is what its digest says."""
    looks = f"{span.path} {looks_of(span.path)}"
    if known.vouched.get(digest) == looks:
        return True
    right = await asyncio.to_thread(_sha256, span) == digest
    if right:
        known.vouched[digest] = looks
    return right


class SpanReader:
    """Reads a span.

    Attributes:
        size: its bytes.
        span: where they are.
    """

    def __init__(self, span: Span) -> None:
        """
        Raises:
            OSError: it can't be read.
        """
        self.size = span.length
        self.span: Span | None = span
        self._path = span.path
        self._left = span.length
        self._file = span.path.open("rb", buffering=0)
        self._file.seek(span.offset)

    async def read(self, most: int) -> bytes:
        """
        Raises:
            LocalDiskError: it can't be read.
        """
        count = min(most, self._left)
        if not count:
            return b""
        with disk_errors("could not read", self._path):
            data = await asyncio.to_thread(self._file.read, count)
        if not data:
            raise BlobCorrupt(f"{self._path} became shorter while it was read")
        self._left -= len(data)
        return data

    def close(self) -> None:
        self._file.close()


def _sha256(span: Span) -> str:
    """The SHA-256 of a span; blocks on the disk."""
    hasher = hashlib.sha256()
    with disk_errors("could not read", span.path), span.path.open("rb") as file:
        file.seek(span.offset)
        left = span.length
        while left and (chunk := file.read(min(_CHUNK, left))):
            hasher.update(chunk)
            left -= len(chunk)
    return hasher.hexdigest()
