"""The place of each entry of a folder in the payload, and the payload's shards: functions of the list alone.

::

    │ header  small file  header │ large file        │ header  small  … │ large file │ header … end │
    │ shard 1                    │ shard 2 │ shard 3 │ shard 4          │ shard 5    │ shard 6      │

A large file has shards of its own, from the first byte to the last. So it can be received straight into its
place, linked from another version, or left out if unwanted.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from shardcast.folders.table import FolderTable
from shardcast.folders.tar_headers import BLOCK, END, entry_header, padding, pax_sizes, plain_header
from shardcast.protocol.wire import MAX_SHARDS

LEAST_LARGE = 1 << 20
"""Size in bytes of the smallest file with shards of its own, unless the shards would be too many."""
MAX_SORTED_SHARDS = 999
"""Maximum shards in the right order for shardcast 0.1.0, which sorts ``shard_1000`` before ``shard_101``."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the payload cut into shards by itself; no shard reaches beyond its ends.

    Attributes:
        offset: of the first byte in the payload.
        size: number of bytes.
        index: of the large file in the table; None between large files.
    """

    offset: int
    size: int
    index: int | None


@dataclass(frozen=True, slots=True)
class FileRange:
    """A range of a file's bytes in the payload.

    Attributes:
        index: of the file in the table.
        offset: of the first byte in the file.
        length: the number of bytes.
    """

    index: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class FolderShard:
    """One shard of a folder.

    Attributes:
        offset: of the first byte in the payload.
        size: number of bytes.
        index: of the large file around the shard; None for headers and small files.
        file_offset: of the first byte in the large file.
    """

    offset: int
    size: int
    index: int | None
    file_offset: int = 0


class TooManyShards(ValueError):
    """Entries whose payload has more shards than a version can have."""


class FolderLayout:
    """The payload of a folder.

    Attributes:
        table: the entries.
        shard_size: bytes of a shard at most.
        large: least bytes of a file with shards of its own.
        size: bytes of the payload.
        entries_end: offset behind the last entry, where the end of the tar begins.
    """

    def __init__(self, table: FolderTable, shard_size: int) -> None:
        """Lay a complete table out.

        Raises:
            TooManyShards: shards of this size would be too many.
        """
        self.table = table
        self.shard_size = shard_size
        self._pax = pax_sizes(table)
        self._starts = array("Q", _offsets(table.sizes, self._pax))  # of each entry's headers
        self.entries_end = self._starts.pop()
        self.size = self.entries_end + len(END)
        if self.size > MAX_SHARDS * shard_size:  # before anything is counted or listed by shards
            raise TooManyShards(
                f"{self.size} bytes in shards of {shard_size}; at most {MAX_SHARDS} can be had"
            )
        self.large = _threshold(self)

    def start(self, index: int) -> int:
        """Return the offset of an entry's header in the payload."""
        return self._starts[index]

    def entry_at(self, offset: int) -> int | None:
        """Return the index of the entry at an offset; None behind the last one."""
        return bisect_right(self._starts, offset) - 1 if offset < self.entries_end else None

    def body(self, index: int) -> int:
        """Return the offset of an entry's bytes in the payload."""
        return self._starts[index] + BLOCK + self._pax.get(index, 0)

    def header(self, index: int) -> bytes:
        """Return the blocks before an entry's bytes."""
        return next(self.headers(range(index, index + 1)))

    def headers(self, run: range) -> Iterator[bytes]:
        """Yield the blocks before the bytes of each of some entries."""
        table, pax, links = self.table, self._pax, self.table.links
        for index, (path, size, mode, mtime) in zip(run, table.rows(run.start, run.stop), strict=True):
            if index in pax:
                yield entry_header(table[index])
            else:
                yield plain_header(path, table.kind(index), size, mode, mtime, links.get(index, b""))

    def entries_before(self, offset: int) -> int:
        """Return the number of entries whose bytes have ended at an offset."""
        index = bisect_right(self._starts, offset - 1) - 1
        return index + (index >= 0 and self.body(index) + self.table.size(index) <= offset)

    def is_large(self, index: int) -> bool:
        """Return whether a file has shards of its own."""
        return self.table.size(index) >= self.large

    def small_files(self) -> Iterator[int]:
        """Yield the indices of the non-empty files that share shards with others."""
        large = self.large
        return (index for index, size in enumerate(self.table.sizes) if 0 < size < large)

    def segments(self) -> Iterator[Segment]:
        """Yield the segments of the payload, in order."""
        return _segments(self, self.large)

    def shards(self, begin: int = 0) -> Iterator[FolderShard]:
        """Yield the shards in order, those of the segments from an offset on."""
        for segment in self.segments():
            if segment.offset < begin:
                continue
            for start in range(0, segment.size, self.shard_size):
                size = min(self.shard_size, segment.size - start)
                in_file = 0 if segment.index is None else start
                yield FolderShard(segment.offset + start, size, segment.index, in_file)

    def entries_between(self, start: int, end: int) -> range:
        """Return the indices of the whole entries, with padding, between ``start`` and ``end``.

        The range is empty if no entry begins at ``start``.
        """
        first = bisect_left(self._starts, start)
        if first == len(self._starts) or self._starts[first] != start:
            return range(0)
        is_last = end >= self.entries_end
        return range(first, len(self._starts) if is_last else bisect_right(self._starts, end) - 1)

    def files_between(self, start: int, end: int) -> Iterator[int]:
        """Yield the indices of the files with bytes between ``start`` and ``end`` of the payload."""
        index = max(0, bisect_right(self._starts, start) - 1)
        while index < len(self._starts) and self._starts[index] < end:
            body, size = self.body(index), self.table.size(index)
            if size and body < end and body + size > start:
                yield index
            index += 1

    def parts(self, start: int, end: int) -> Iterator[bytes | FileRange]:
        """Yield the payload's bytes from ``start`` to ``end``: as they are, or as ranges of files.

        Args:
            start: offset of the first byte.
            end: offset after the last one, at most ``size``.
        """
        index = max(0, bisect_right(self._starts, start) - 1)
        while start < end and index < len(self.table):
            body, size = self.body(index), self.table.size(index)
            after = body + size
            if start < body:
                header = self.header(index)
                begin = start - self._starts[index]
                yield header[begin : min(len(header), begin + end - start)]
                start = min(body, end)
            if start < end and start < after:
                length = min(after, end) - start
                yield FileRange(index, start - body, length)
                start += length
            zeros = min(after + padding(size), end) - start
            if zeros > 0:
                yield bytes(zeros)
                start += zeros
            index += 1
        if start < end:
            yield bytes(end - start)


def _offsets(sizes: Iterable[int], pax: Mapping[int, int]) -> Iterator[int]:
    """Yield the offset of each entry in the payload, then the offset behind the last one."""
    position = 0
    for index, size in enumerate(sizes):
        yield position
        position += BLOCK + size + padding(size)
        if pax and index in pax:
            position += pax[index]
    yield position


def _segments(layout: FolderLayout, large: int) -> Iterator[Segment]:
    """Yield the segments for a threshold."""
    position = 0
    for index, size in enumerate(layout.table.sizes):
        if size >= large:
            body = layout.body(index)
            yield Segment(position, body - position, None)
            yield Segment(body, size, index)
            position = body + size
    yield Segment(position, layout.size - position, None)


def _threshold(layout: FolderLayout) -> int:
    """Return the least size of a file with shards of its own.

    The size is 1 MiB, doubled until there are at most 999 shards. If there are more at any threshold, it
    is doubled only until there are at most twice the fewest possible.
    """

    def count(large: int) -> int:
        return sum(-(-segment.size // layout.shard_size) for segment in _segments(layout, large))

    fewest = -(-layout.size // layout.shard_size)
    most = MAX_SORTED_SHARDS if fewest <= MAX_SORTED_SHARDS else min(2 * fewest, MAX_SHARDS)
    large = LEAST_LARGE
    while count(large) > most:
        large *= 2
    return large
