"""A read-only store of the shards of version folders.

Shards are verified piece by piece on arrival, by another digest than their name here; so each is hashed whole
once, at the first request by name, and again after a change of its file.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    nullcontext,
)
from dataclasses import dataclass, field
from functools import partial

from shardcast.blobs.directory.file import PORTION
from shardcast.blobs.directory.hashing import HashingPool
from shardcast.blobs.interface import BlobWriter
from shardcast.blobs.span_reader import SpanReader
from shardcast.errors import BlobCorrupt, BlobMissing, LocalDiskError, ReadOnlyStore
from shardcast.protocol.manifest import Shard
from shardcast.protocol.wire import version_name
from shardcast.store.file_errors import BlobSearch, file_errors
from shardcast.store.interfaces import Span
from shardcast.store.version_place import VersionPlace
from shardcast.store.versions import VersionFolders


@dataclass
class _ShardIndex:
    """The index of a version's shards.

    Attributes:
        shards: the shards of its manifest; the very indexed list, compared by identity.
        numbers: the number of each shard, by its SHA-256.
        counted: number of indexed shards; an open version gets more.
        verified: the path and state of a shard's file at its verification, by SHA-256.
    """

    shards: Sequence[Shard]
    numbers: dict[str, int] = field(default_factory=dict)
    counted: int = 0
    verified: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Source:
    """A version with shards: of the current line (its number), or of another line (its place).

    Attributes:
        key: the number, or the place.
        shards: the shards of its manifest.
        span: returns the place of a shard's bytes, or None for one not here whole.
        reading: a context, for a reason, to protect the version from retirement.
    """

    key: int | VersionPlace
    shards: Sequence[Shard]
    span: Callable[[int], Span | None]
    reading: Callable[[str], AbstractContextManager[object]]


class VersionBlobs:
    """The whole local shards, by their SHA-256: of complete and open versions, and of other lines.

    A ``BlobStore``; of the event loop alone.

    Attributes:
        algorithm: always SHA-256.
    """

    algorithm = "sha256"

    def __init__(self, folders: VersionFolders) -> None:
        self._folders = folders
        self._indexes: dict[int | VersionPlace, _ShardIndex] = {}
        self._hashing = HashingPool()

    async def size(self, digest: str) -> int | None:
        """See ``BlobStore``."""
        for _, source, shard in self._places(digest):
            span = source.span(shard)
            if span is not None:
                return span.length
        return None

    @asynccontextmanager
    async def open(self, digest: str) -> AsyncIterator[SpanReader]:
        """See ``BlobStore``; a version of the current line is held during the reading of its shard."""
        search = BlobSearch()
        for index, source, shard in self._places(digest):
            with source.reading("a reader of blobs"):
                span = source.span(shard)
                reader = _try_open(span, search) if span else None
                if reader is None:
                    continue
                try:
                    # Verify the open file, since another file may get its name at any time.
                    if await self._is_right(index, digest, reader, search):
                        yield reader
                        return
                finally:
                    reader.close()
        search.check()
        if search.wrong:
            raise BlobCorrupt(f"{search.wrong}; remove its version")
        raise BlobMissing(f"no shard here has the digest {digest}")

    async def _is_right(
        self, index: _ShardIndex, digest: str, reader: SpanReader, search: BlobSearch
    ) -> bool:
        """Return whether a shard has this digest; ``search`` records the reason why not."""
        looks = f"{reader.path} {reader.identity}"
        if index.verified.get(digest) == looks:
            return True
        try:
            place = (digest, looks, reader.span and reader.span.offset)
            right = (
                await self._hashing.run_shared(place, lambda: _begin_hashing(reader, self._hashing)) == digest
            )
        except LocalDiskError as error:
            search.add_error(error)
            return False
        if not right:
            search.add_corrupt(f"the shard with the digest {digest} was changed in {reader.path}")
        if right:
            index.verified[digest] = looks
        return right

    async def read_small(self, digests: Sequence[str], max_size: int) -> dict[str, bytes]:
        """See ``BlobStore``."""
        found: dict[str, bytes] = {}
        for digest in digests:  # one by one: shards are large, and few are asked for
            size = await self.size(digest)
            if size is not None and size <= max_size:
                try:
                    async with self.open(digest) as reader:
                        found[digest] = await reader.read(size)
                except (BlobMissing, BlobCorrupt):
                    continue
        return found

    def put(self, digest: str | None = None) -> AbstractAsyncContextManager[BlobWriter]:
        """Refuse to put a blob.

        Raises:
            ReadOnlyStore: always.
        """
        raise ReadOnlyStore("shards come with their versions; broadcast a file instead")

    async def delete(self, digest: str) -> bool:
        """Refuse to remove a blob.

        Raises:
            ReadOnlyStore: always.
        """
        raise ReadOnlyStore("shards go with their versions")

    async def digests(self) -> AsyncIterator[str]:
        """See ``BlobStore``; a shard of several versions is yielded once."""
        seen: set[str] = set()
        for source in self._refresh():
            for digest, shard in list(self._indexes[source.key].numbers.items()):
                if digest not in seen and source.span(shard) is not None:
                    seen.add(digest)
                    yield digest

    def _places(self, digest: str) -> list[tuple[_ShardIndex, _Source, int]]:
        """Return the indexes, versions and numbers of the shards with this digest in their manifest."""
        indexed = [(self._indexes[source.key], source) for source in self._refresh()]
        return [
            (index, source, index.numbers[digest]) for index, source in indexed if digest in index.numbers
        ]

    def _refresh(self) -> list[_Source]:
        """Index new shards, drop removed versions, and return the present versions."""
        sources = self._sources()
        for key in self._indexes.keys() - {source.key for source in sources}:
            del self._indexes[key]
        for source in sources:
            index = self._indexes.get(source.key)
            if index is None or index.shards is not source.shards:
                index = self._indexes[source.key] = _ShardIndex(source.shards)
            for shard in source.shards[index.counted :]:
                if shard.sha256:
                    index.numbers.setdefault(shard.sha256, shard.number)
            index.counted = len(source.shards)
        return sources

    def _sources(self) -> list[_Source]:
        """Return the versions here, the newest first, those of other lines last."""
        folders, sources = self._folders, []
        numbers = folders.complete_numbers | folders.open_numbers | folders.hidden_numbers
        for number in sorted(numbers, reverse=True):
            shards, version = self._shards(number), version_name(number)
            if shards is not None:
                span, reading = partial(folders.shard, version), partial(folders.reading, version)
                sources.append(_Source(number, shards, span, reading))
        if folders.held:
            for aside in folders.aside:
                manifest = aside.complete.manifest
                if manifest is not None and not aside.withdrawn:
                    sources.append(_Source(aside.place, manifest.shards, aside.span, nullcontext))
        return sources

    def _shards(self, number: int) -> Sequence[Shard] | None:
        """Return the shards of a version of the current line, or None without a manifest."""
        opened = self._folders.opened(number)
        if opened:
            return opened.live.shards
        manifest = self._folders.manifest_of(version_name(number))
        return manifest.shards if manifest else None


def _try_open(span: Span, search: BlobSearch) -> SpanReader | None:
    """Open a shard's file; on a failure, record the error in ``search`` and return None."""
    try:
        with file_errors("could not open", span.path):
            return SpanReader(span)
    except LocalDiskError as error:
        search.add_error(error)
        return None


def _begin_hashing(reader: SpanReader, hashing: HashingPool) -> asyncio.Future[str]:
    """Hash a shard for several requests; the descriptor is its own, since the first may leave early."""
    own = reader.duplicate()
    task = asyncio.ensure_future(_sha256(own, hashing))
    task.add_done_callback(lambda _: own.close())
    return task


async def _sha256(reader: SpanReader, hashing: HashingPool) -> str:
    """Return the SHA-256 of a shard, hashed in portions between which a cancellation takes effect.

    Raises:
        LocalDiskError: the shard can't be read.
    """
    hasher = hashlib.sha256()
    while await hashing.run(reader.hash_into, hasher, PORTION):
        pass
    return hasher.hexdigest()
