"""The cache of the last backup: facts and listing of each folder, to be used while unchanged.

Records of folders lie in the order in which folders are finished, those of subfolders right before their
folder's own: a folder with all below it is one range of bytes, and the next cache copies unchanged ranges. ::

    record   parts: encoded segments, ids of chunks | index: of parts | names | facts | sizes of the ranges of
             subfolders | trailer: lengths, counts, CRC-32 of everything behind the parts
    footer   end of the top folder's record, id of the snapshot, CRC-32

A segment is verified by its id before use; the server verifies the existence of chunks.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from shardcast.backup.ids import ID_SIZE
from shardcast.disk_errors import disk_errors
from shardcast.open_files import write_all

FACTS = struct.Struct("<qQQQ")
"""Size, mtime and ctime in nanoseconds (masked by ``WORD``), and inode of a name: these tell of a change."""
_MAGIC = b"SCFCACHE1\n"
_PART = struct.Struct(f"<{ID_SIZE}sIII")
"""A part in its index: id of the segment, number of entries, bytes, number of ids of chunks after the
segment."""
_TRAILER = struct.Struct("<QIQIIQQQQI")
_FOOTER = struct.Struct("<Q64sI")
_BUFFER = 1 << 20
"""Bytes written at once."""


class FolderSums(NamedTuple):
    """Sums over a folder and everything below.

    Attributes:
        files: files and other entries, without folders.
        folders: folders, including the folder itself.
        bytes: bytes of the files.
    """

    files: int = 0
    folders: int = 0
    bytes: int = 0

    def plus(self, other: FolderSums) -> FolderSums:
        """Return the sums of both."""
        return FolderSums(self.files + other.files, self.folders + other.folders, self.bytes + other.bytes)

    def minus(self, other: FolderSums) -> FolderSums:
        """Return these sums without the others."""
        return FolderSums(self.files - other.files, self.folders - other.folders, self.bytes - other.bytes)


@dataclass(frozen=True, slots=True)
class CachedPart:
    """A segment of a folder's listing, and the ids of the chunks in its entries.

    Attributes:
        segment: the segment's id.
        entries: number of entries.
        encoded: the segment, encoded.
        chunks: ids of the chunks of these files, and of their chunk lists, joined.
    """

    segment: bytes
    entries: int
    encoded: bytes
    chunks: bytes


@dataclass(frozen=True, slots=True)
class CachedFolder:
    """The record of a folder.

    Attributes:
        start: start of the folder's range: the subfolders' records and its own.
        end: end of the range.
        names: the names in the folder, in order, joined by NUL; those of subfolders end in ``/``.
        facts: ``FACTS`` of each name.
        sums: of the folder and everything below.
        children: start and end of the subfolders' ranges, in the order of their names.
        index: of the folder's parts.
        parts_start: start of the parts.
    """

    start: int
    end: int
    names: bytes
    facts: bytes
    sums: FolderSums
    children: tuple[tuple[int, int], ...]
    index: bytes
    parts_start: int

    @property
    def segments(self) -> tuple[bytes, ...]:
        """Ids of the segments in the folder's listing."""
        return tuple(segment for segment, _, _, _ in _PART.iter_unpack(self.index))


class FolderCache:
    """A finished cache.

    Attributes:
        snapshot: the id of the snapshot made together with the cache.
    """

    def __init__(self, data: mmap.mmap, end: int, snapshot: str) -> None:
        self._data = data
        self._end = end
        self.snapshot = snapshot

    @classmethod
    def open(cls, path: Path, key: bytes) -> Self | None:
        """Return the cache in a file; None for a missing, foreign or damaged file.

        Args:
            path: the file.
            key: the key of ids; a cache made with another key is not used.
        """
        with suppress(OSError, ValueError), open(path, "rb") as stream:
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            head = _MAGIC + key
            if data[: len(head)] == head and len(data) >= len(head) + _FOOTER.size:
                end, snapshot, check = _FOOTER.unpack(data[-_FOOTER.size :])
                if check == zlib.crc32(data[-_FOOTER.size : -4]) and end == len(data) - _FOOTER.size:
                    return cls(data, end, snapshot.rstrip(b"\0").decode("ascii"))
            data.close()
        return None

    def close(self) -> None:
        """Close the file."""
        self._data.close()

    def top(self) -> CachedFolder | None:
        """Return the record of the top folder; None if damaged."""
        return self.folder(len(_MAGIC) + ID_SIZE, self._end)

    def folder(self, start: int, end: int) -> CachedFolder | None:
        """Return the record of a folder; None if damaged.

        The parts before the record are not checked: they may be damaged all the same.

        Args:
            start: start of the folder's range.
            end: end of the range.
        """
        if end - start < _TRAILER.size:
            return None
        fields = _TRAILER.unpack(self._data[end - _TRAILER.size : end])
        parts, index, names, count, subfolders, below, *sums, check = fields
        tail = index + names + count * FACTS.size + subfolders * 8
        at = end - _TRAILER.size - tail
        if at - parts - below != start:
            return None
        body = self._data[at : end - 4]
        if zlib.crc32(body) != check:
            return None
        view = memoryview(body)
        facts = index + names
        sizes = facts + count * FACTS.size
        children, child = [], start
        for (size,) in struct.iter_unpack("<Q", view[sizes:tail]):
            children.append((child, child + size))
            child += size
        return CachedFolder(
            start, end, body[index:facts], body[facts:sizes], FolderSums(*sums), tuple(children),
            body[:index], at - parts,
        )  # fmt: skip

    def parts(self, folder: CachedFolder) -> Iterator[CachedPart]:
        """Yield the segments of a folder's listing."""
        at = folder.parts_start
        for segment, entries, length, chunks in _PART.iter_unpack(folder.index):
            middle = at + length
            end = middle + chunks * ID_SIZE
            yield CachedPart(segment, entries, self._data[at:middle], self._data[middle:end])
            at = end

    def ids(self, folder: CachedFolder, *, below: bool = True) -> Iterator[bytes]:
        """Yield the ids needed by a folder, joined in strings: of segments, chunks and chunk lists.

        A subfolder with a damaged record is skipped.

        Args:
            folder: the folder.
            below: whether to yield the ids of subfolders too.
        """
        pending = [folder]
        while pending:
            one = pending.pop()
            for part in self.parts(one):
                yield part.segment + part.chunks
            if below:
                found = [self.folder(*child) for child in one.children]
                pending += [child for child in found if child is not None]

    def range(self, start: int, end: int) -> Iterator[memoryview]:
        """Yield the bytes of a range."""
        view = memoryview(self._data)
        try:
            for at in range(start, end, _BUFFER):
                with view[at : min(at + _BUFFER, end)] as portion:
                    yield portion
        finally:
            view.release()


class FolderCacheWriter:
    """A writer of a cache into an open file."""

    def __init__(self, descriptor: int, key: bytes, path: Path) -> None:
        """Begin a cache.

        Args:
            descriptor: of an empty file.
            key: the key of ids.
            path: of the cache, for errors.
        """
        self._path = path
        self._descriptor = descriptor
        self._buffer = bytearray(_MAGIC + key)
        self._written = 0

    @property
    def position(self) -> int:
        """Bytes so far."""
        return self._written + len(self._buffer)

    def copy(self, cache: FolderCache, folder: CachedFolder) -> None:
        """Copy a folder and everything below from another cache.

        Raises:
            OSError: the disk failed.
        """
        for portion in cache.range(folder.start, folder.end):
            self._write(portion)

    def add_part(self, part: CachedPart) -> bytes:
        """Write a segment of the current folder, and return the segment's line in the index.

        Raises:
            OSError: the disk failed.
        """
        self._write(part.encoded)
        self._write(part.chunks)
        return _PART.pack(part.segment, part.entries, len(part.encoded), len(part.chunks) // ID_SIZE)

    def add_folder(
        self,
        start: int,
        parts_start: int,
        index: bytes,
        names: bytes,
        facts: bytes,
        sums: FolderSums,
        children: Sequence[int],
    ) -> None:
        """Write the record of a folder after its parts.

        Args:
            start: start of the folder's range.
            parts_start: start of the folder's parts.
            index: of the parts.
            names: as in ``CachedFolder``.
            facts: likewise.
            sums: likewise.
            children: sizes of the subfolders' ranges.

        Raises:
            OSError: the disk failed.
        """
        tail = b"".join((index, names, facts, struct.pack(f"<{len(children)}Q", *children)))
        parts = self.position - parts_start
        count = len(facts) // FACTS.size
        trailer = _TRAILER.pack(
            parts, len(index), len(names), count, len(children), parts_start - start, *sums, 0
        )[:-4]
        self._write(tail + trailer + struct.pack("<I", zlib.crc32(trailer, zlib.crc32(tail))))

    def finish(self, snapshot: str) -> None:
        """Write the footer and all buffered bytes: the cache is whole.

        Args:
            snapshot: the id of the snapshot; empty while there is none (``renew`` writes the id later).

        Raises:
            OSError: the disk failed.
        """
        self._write(footer(self.position, snapshot))
        self.flush()

    def flush(self) -> None:
        """Write the buffered bytes.

        Raises:
            OSError: the disk failed.
        """
        with disk_errors("could not write", self._path):  # else the error would name the folder being saved
            write_all(self._descriptor, memoryview(self._buffer))
        self._written += len(self._buffer)
        self._buffer = bytearray()

    def _write(self, data: bytes | memoryview) -> None:
        self._buffer += data
        if len(self._buffer) >= _BUFFER:
            self.flush()


def footer(end: int, snapshot: str) -> bytes:
    """Return the footer of a cache whose top folder's record ends at ``end``."""
    fields = _FOOTER.pack(end, snapshot.encode(), 0)[:-4]
    return fields + struct.pack("<I", zlib.crc32(fields))


def renew(path: Path, snapshot: str) -> None:
    """Write the id of another snapshot of the same content into the footer of a finished cache.

    A kill in the middle leaves a footer whose CRC is wrong: the next backup then reads every file.

    Raises:
        OSError: the disk failed.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        end = os.fstat(descriptor).st_size - _FOOTER.size
        os.pwrite(descriptor, footer(end, snapshot), end)
    finally:
        os.close(descriptor)
