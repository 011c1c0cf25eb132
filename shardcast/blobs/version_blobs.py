"""The shards of version folders as blobs, to be read.

Shards are verified piece by piece when they arrive, with another digest than the one that names them here;
so each is hashed whole once, when it is first asked for by name, and again when its file has changed.
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


@dataclass(frozen=True)
class _Source:
    """A version with shards: of the current line (its number), or of another one (its place)."""

    key: int | VersionPlace
    shards: Sequence[Shard]
    span: Callable[[int], Span | None]
    reading: Callable[[str], AbstractContextManager[object]]


class VersionBlobs:
    """The shards that are here, whole, by their SHA-256: of complete versions, of those that are open, and of
    those of other lines."""

    algorithm = "sha256"

    def __init__(self, folders: VersionFolders) -> None:
        self._folders = folders
        self._known: dict[int | VersionPlace, _Known] = {}
        self._hashing = Hashing()

    async def size(self, digest: str) -> int | None:
        for _, source, shard in self._places(digest):
            span = source.span(shard)
            if span is not None:
                return span.length
        return None

    @asynccontextmanager
    async def open(self, digest: str) -> AsyncIterator[SpanReader]:
        search = Search()
        for known, source, shard in self._places(digest):
            with source.reading("a reader of blobs"):
                span = source.span(shard)
                reader = _try_open(span, search) if span else None
                if reader is None:
                    continue
                try:
                    # The file that is read is the one that is looked into: its name may get another one's.
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
        """Whether the shard is what its digest says; ``search`` is told why not."""
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
        for source in self._look():
            for digest, shard in list(self._known[source.key].numbers.items()):
                if digest not in told and source.span(shard) is not None:
                    told.add(digest)
                    yield digest

    def _places(self, digest: str) -> list[tuple[_Known, _Source, int]]:
        """The versions and numbers of the shards that should have this digest."""
        known = [(self._known[source.key], source) for source in self._look()]
        return [(one, source, one.numbers[digest]) for one, source in known if digest in one.numbers]

    def _look(self) -> list[_Source]:
        """Look at what is new; the versions that are here."""
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
        opened = self._folders.opened(number)
        if opened:
            return opened.live.shards
        manifest = self._folders.manifest_of(version_name(number))
        return manifest.shards if manifest else None


def _try_open(span: Span, search: Search) -> SpanReader | None:
    """A shard's file; None where it can't be opened, which ``search`` is told."""
    try:
        with file_errors("could not open", span.path):
            return SpanReader(span)
    except LocalDiskError as error:
        search.met(error)
        return None


def _begin_hashing(reader: SpanReader, hashing: Hashing) -> asyncio.Future[str]:
    """Hash a shard on behalf of several, of whom the one that it is from may go first."""
    own = reader.again()
    task = asyncio.ensure_future(_sha256(own, hashing))
    task.add_done_callback(lambda _: own.close())
    return task


async def _sha256(reader: SpanReader, hashing: Hashing) -> str:
    """
    Raises:
        LocalDiskError: it can't be read.
    """
    hasher = hashlib.sha256()
    while await hashing.run(reader.hash_into, hasher, PORTION):
        pass
    return hasher.hexdigest()


class SpanReader:
    """Reads a span.

    Attributes:
        size: its bytes.
        span: where they are.
        path: their file.
        looks: the state of the file when it was opened.
    """

    def __init__(self, span: Span, file: FileIO | None = None) -> None:
        """``file``: the span's file, where it is open.

        Raises:
            OSError: it can't be read.
        """
        self.size = span.length
        self.span: Span | None = span
        self.path = span.path
        self._left = span.length
        self._file = file or span.path.open("rb", buffering=0)
        self._file.seek(span.offset)
        self.looks = FileIdentity.from_stat(os.fstat(self._file.fileno())).text

    async def read(self, most: int) -> bytes:
        """
        Raises:
            LocalDiskError: it can't be read.
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
        self._file.close()

    def again(self) -> SpanReader:
        """The same file, opened once more, to be closed for itself.

        Raises:
            LocalDiskError: there are no descriptors left.
        """
        assert self.span
        with disk_errors("could not open", self.path):
            return SpanReader(self.span, os.fdopen(os.dup(self._file.fileno()), "rb", buffering=0))

    def hash_into(self, hasher: Hasher, most: int) -> int:
        """Have a hasher take the next bytes, ``most`` at the most; how many those were. Blocks on the disk.

        Raises:
            LocalDiskError: it can't be read.
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
