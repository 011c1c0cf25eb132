"""A read-only store of the shards of version folders.

Shards are verified piece by piece when they arrive, by another digest than the one that names them here; so
each is hashed whole once, when it is first requested by name, and again when its file has changed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    nullcontext,
)
from dataclasses import dataclass, field
from functools import partial
from io import FileIO

from shardcast.blobs.directory.file import PORTION
from shardcast.blobs.directory.hashing import Hashing
from shardcast.blobs.interface import BlobWriter
from shardcast.digest import Hasher
from shardcast.errors import BlobCorrupt, BlobMissing, LocalDiskError, ReadOnlyStore
from shardcast.file_identity import FileIdentity
from shardcast.filesystem import disk_errors
from shardcast.protocol.manifest import Shard
from shardcast.protocol.wire import version_name
from shardcast.store.file_errors import Search, file_errors
from shardcast.store.interfaces import Span
from shardcast.store.version_place import VersionPlace
from shardcast.store.versions import VersionFolders

_CHUNK = 1 << 20


@dataclass
class _Known:
    """The index of a version's shards.

    Attributes:
        shards: the shards of its manifest; the very list that was indexed, compared by identity.
        numbers: the number of each shard, by its SHA-256.
        counted: how many shards are indexed; an open version gets more.
        vouched: the path and state of a shard's file when it was verified, by SHA-256.
    """

    shards: Sequence[Shard]
    numbers: dict[str, int] = field(default_factory=dict)
    counted: int = 0
    vouched: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Source:
    """A version with shards: of the current line (its number), or of another line (its place).

    Attributes:
        key: the number, or the place.
        shards: the shards of its manifest.
        span: returns where a shard's bytes lie, or None where it isn't here whole.
        reading: a context, for a reason, in which the version is not retired.
    """

    key: int | VersionPlace
    shards: Sequence[Shard]
    span: Callable[[int], Span | None]
    reading: Callable[[str], AbstractContextManager[object]]


class VersionBlobs:
    """The shards that are here, whole, by their SHA-256: of complete and open versions, and of other lines.

    A ``BlobStore``; of the event loop alone.

    Attributes:
        algorithm: always SHA-256.
    """

    algorithm = "sha256"

    def __init__(self, folders: VersionFolders) -> None:
        self._folders = folders
        self._known: dict[int | VersionPlace, _Known] = {}
        self._hashing = Hashing()

    async def size(self, digest: str) -> int | None:
        """See ``BlobStore``."""
        for _, source, shard in self._places(digest):
            span = source.span(shard)
            if span is not None:
                return span.length
        return None

    @asynccontextmanager
    async def open(self, digest: str) -> AsyncIterator[SpanReader]:
        """See ``BlobStore``; a version of the current line is held while its shard is read."""
        search = Search()
        for known, source, shard in self._places(digest):
            with source.reading("a reader of blobs"):
                span = source.span(shard)
                reader = _try_open(span, search) if span else None
                if reader is None:
                    continue
                try:
                    # Verify the open file that is read, since another file may get its name at any time.
                    if await self._is_right(known, digest, reader, search):
                        yield reader
                        return
                finally:
                    reader.close()
        search.check()
        if search.wrong:
            raise BlobCorrupt(f"{search.wrong}; remove its version")
        raise BlobMissing(f"no shard here has the digest {digest}")

    async def _is_right(self, known: _Known, digest: str, reader: SpanReader, search: Search) -> bool:
        """Return whether a shard has this digest; ``search`` records the reason why not."""
        looks = f"{reader.path} {reader.looks}"
        if known.vouched.get(digest) == looks:
            return True
        try:
            place = (digest, looks, reader.span and reader.span.offset)
            right = await self._hashing.once(place, lambda: _begin_hashing(reader, self._hashing)) == digest
        except LocalDiskError as error:
            search.met(error)
            return False
        if not right:
            search.met_wrong(f"the shard with the digest {digest} was changed")
        if right:
            known.vouched[digest] = looks
        return right

    async def read_small(self, digests: Sequence[str], most: int) -> dict[str, bytes]:
        """See ``BlobStore``."""
        found: dict[str, bytes] = {}
        for digest in digests:  # one by one: shards are large, and few are asked for
            size = await self.size(digest)
            if size is not None and size <= most:
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
        for source in self._look():
            for digest, shard in list(self._known[source.key].numbers.items()):
                if digest not in seen and source.span(shard) is not None:
                    seen.add(digest)
                    yield digest

    def _places(self, digest: str) -> list[tuple[_Known, _Source, int]]:
        """Return the indexes, versions and numbers of the shards that should have this digest."""
        indexed = [(self._known[source.key], source) for source in self._look()]
        return [
            (known, source, known.numbers[digest]) for known, source in indexed if digest in known.numbers
        ]

    def _look(self) -> list[_Source]:
        """Index the shards that are new, drop versions that are gone, and return the versions here."""
        sources = self._sources()
        for key in self._known.keys() - {source.key for source in sources}:
            del self._known[key]
        for source in sources:
            known = self._known.get(source.key)
            if known is None or known.shards is not source.shards:
                known = self._known[source.key] = _Known(source.shards)
            for shard in source.shards[known.counted :]:
                if shard.sha256:
                    known.numbers.setdefault(shard.sha256, shard.number)
            known.counted = len(source.shards)
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


def _try_open(span: Span, search: Search) -> SpanReader | None:
    """Open a shard's file; where that fails, record the error in ``search`` and return None."""
    try:
        with file_errors("could not open", span.path):
            return SpanReader(span)
    except LocalDiskError as error:
        search.met(error)
        return None


def _begin_hashing(reader: SpanReader, hashing: Hashing) -> asyncio.Future[str]:
    """Hash a shard for several requests; the descriptor is its own, since the first may leave early."""
    own = reader.again()
    task = asyncio.ensure_future(_sha256(own, hashing))
    task.add_done_callback(lambda _: own.close())
    return task


async def _sha256(reader: SpanReader, hashing: Hashing) -> str:
    """Return the SHA-256 of a shard, hashed in portions between which a cancellation takes effect.

    Raises:
        LocalDiskError: the shard can't be read.
    """
    hasher = hashlib.sha256()
    while await hashing.run(reader.hash_into, hasher, PORTION):
        pass
    return hasher.hexdigest()


class SpanReader:
    """Reader of a span (a ``BlobReader``).

    Attributes:
        size: bytes of the span.
        span: where its bytes are.
        path: the file of the span.
        looks: the state of the file when it was opened.
    """

    def __init__(self, span: Span, file: FileIO | None = None) -> None:
        """Open the span's file, or take an open ``file``, which is then closed with this reader.

        Raises:
            OSError: the file can't be read.
        """
        self.size = span.length
        self.span: Span | None = span
        self.path = span.path
        self._left = span.length
        self._file = file or span.path.open("rb", buffering=0)
        self._file.seek(span.offset)
        self.looks = FileIdentity.from_stat(os.fstat(self._file.fileno())).text

    async def read(self, most: int) -> bytes:
        """Return the next bytes, at most ``most``; empty at the end.

        Raises:
            LocalDiskError: the file can't be read.
            BlobCorrupt: the file became shorter.
        """
        count = min(most, self._left)
        if not count:
            return b""
        with disk_errors("could not read", self.path):
            data = await asyncio.to_thread(self._file.read, count)
        if not data:
            raise BlobCorrupt(f"{self.path} became shorter while it was read")
        self._left -= len(data)
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def again(self) -> SpanReader:
        """Return a reader with a descriptor of its own, which the caller closes.

        Only for ``hash_into``, which reads by position: both descriptors share one offset.

        Raises:
            LocalDiskError: there are no descriptors left.
        """
        assert self.span
        with disk_errors("could not open", self.path):
            return SpanReader(self.span, os.fdopen(os.dup(self._file.fileno()), "rb", buffering=0))

    def hash_into(self, hasher: Hasher, most: int) -> int:
        """Hash the next bytes, at most ``most``, and return how many those were; blocks on the disk.

        Raises:
            LocalDiskError: the file can't be read.
        """
        assert self.span
        taken = 0
        with file_errors("could not read", self.path):
            while taken < most and self._left:
                position = self.span.offset + self.size - self._left
                chunk = os.pread(self._file.fileno(), min(_CHUNK, most - taken, self._left), position)
                if not chunk:
                    break
                hasher.update(chunk)
                taken += len(chunk)
                self._left -= len(chunk)
        return taken
