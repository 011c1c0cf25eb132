"""Listings: a folder's entries, in order, in segments; and a large file's list of chunks.

Cuts follow the content, so one more entry or chunk changes one segment. Readers need not know the cutting
rule.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from itertools import pairwise

from shardcast.backup.entries import MAX_LINE, SavedEntry, parse_entry
from shardcast.backup.ids import ID_SIZE, MAX_CHUNK
from shardcast.errors import IntegrityError

MAX_ENTRIES = 2048
"""Entries of a segment."""
MAX_SEGMENT = 1 << 20
"""Bytes after which a segment ends; the last line may go beyond."""
MAX_LISTED_IDS = 1 << 16
"""Ids in one chunk of a file's list."""
INLINE_IDS = 1024
"""Maximum number of chunk ids in a file's entry; files with more have chunk lists."""
_LISTED = struct.Struct(f"<{ID_SIZE}sI")
"""A chunk in a file's list: id and size."""
_CUT_ENTRIES, _CUT_IDS = 512, 1024
"""One in so many names, or ids, ends a segment."""


class SegmentCutter:
    """A cutter of a listing into segments, entry by entry."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._size = 0

    def __len__(self) -> int:
        """Return the number of entries since the last cut."""
        return len(self._lines)

    def add(self, name: bytes, line: bytes) -> bool:
        """Add an entry, and return whether its segment is finished; then call ``take``.

        Args:
            name: the entry's name, greater than the last one's.
            line: the entry's line.
        """
        self._lines.append(line)
        self._size += len(line)
        return (
            self._size >= MAX_SEGMENT
            or len(self._lines) == MAX_ENTRIES
            or zlib.crc32(name) % _CUT_ENTRIES == 0
        )

    def take(self) -> bytes:
        """Return the segment, and begin the next one."""
        segment = b"".join(self._lines)
        self._lines, self._size = [], 0
        return segment


def cut_lines(lines: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Yield the segments of a whole listing.

    Args:
        lines: each entry's name and line, sorted by name.
    """
    cutter = SegmentCutter()
    for name, line in lines:
        if cutter.add(name, line):
            yield cutter.take()
    if len(cutter):
        yield cutter.take()


def read_segment(plain: bytes) -> list[SavedEntry]:
    """Return the entries of a segment.

    Raises:
        IntegrityError: the bytes are no segment, or the names are not in order.
    """
    if len(plain) > MAX_SEGMENT + MAX_LINE or not plain.endswith(b"\n"):
        raise IntegrityError("a folder's listing is cut off or too long")
    entries = [parse_entry(line) for line in plain[:-1].split(b"\n")]
    names = [entry.name for entry in entries]
    if len(names) > MAX_ENTRIES or any(first >= second for first, second in pairwise(names)):
        raise IntegrityError("a folder's listing has names that are not in order, or too many")
    return entries


def cut_chunk_list(chunks: Iterable[tuple[bytes, int]]) -> Iterator[bytes]:
    """Yield the ids and sizes of a large file's chunks, joined, in pieces."""
    piece: list[bytes] = []
    for chunk, size in chunks:
        piece.append(_LISTED.pack(chunk, size))
        if len(piece) == MAX_LISTED_IDS or int.from_bytes(chunk[:2], "little") % _CUT_IDS == 0:
            yield b"".join(piece)
            piece = []
    if piece:
        yield b"".join(piece)


def read_chunk_list(plain: bytes) -> list[tuple[bytes, int]]:
    """Return the ids and sizes in a piece of a file's list of chunks.

    Raises:
        IntegrityError: the bytes are no chunk list.
    """
    if not plain or len(plain) % _LISTED.size or len(plain) > MAX_LISTED_IDS * _LISTED.size:
        raise IntegrityError(f"a file's list of chunks has {len(plain)} bytes")
    chunks = list(_LISTED.iter_unpack(plain))
    if not all(1 <= size <= MAX_CHUNK for _, size in chunks):
        raise IntegrityError("a file's list of chunks has one of an impossible size")
    return chunks
