"""The entries and the growing layout of a folder written file by file, in the order of writing."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator, Sequence

from shardcast.folders.entries import EntryKind, FolderEntry, UnsafeEntry, check_entry
from shardcast.folders.layout import LEAST_LARGE, FolderLayout, Segment, TooManyShards
from shardcast.folders.table import MAX_BYTES, FolderTable
from shardcast.folders.tar_headers import BLOCK, END, entry_header, padding
from shardcast.protocol.wire import MAX_SHARDS

MAX_WRITTEN = 800
"""Maximum entries of such a folder: each file has a line of its own in the manifest, and readers without
support for such folders accept 1000 unknown lines."""


class WrittenTable(FolderTable):
    """The entries of a folder in the order of writing, each folder before its contents."""

    def __init__(self) -> None:
        """Begin with no entry."""
        super().__init__()
        self._indices: dict[bytes, int] = {}

    def find(self, path: bytes) -> int | None:
        """Return the index of the entry at a path; None where none is."""
        return self._indices.get(path)

    def has(self, path: bytes) -> bool:
        """Return whether a file or a folder has a path, with or without a slash at the end."""
        plain = path.rstrip(b"/")
        return plain in self._indices or plain + b"/" in self._indices

    def append(self, entry: FolderEntry) -> None:
        """Append the next entry.

        Raises:
            UnsafeEntry: the entry is unsafe, there twice, in no folder of the table, or a link.
        """
        check_entry(entry)
        path, plain = entry.path, entry.path.rstrip(b"/")
        if entry.kind not in (EntryKind.FILE, EntryKind.FOLDER):
            raise UnsafeEntry(f"{entry.text!r} is a link, in a folder that is written file by file")
        if len(self) >= MAX_WRITTEN:
            raise UnsafeEntry(f"more than {MAX_WRITTEN} entries")
        if self._bytes + entry.size > MAX_BYTES:
            raise UnsafeEntry(f"files of more than {MAX_BYTES} bytes together")
        if self.has(path):
            raise UnsafeEntry(f"{entry.text!r} is there twice")
        above = path[: plain.rfind(b"/") + 1]
        if above and above not in self._indices:
            raise UnsafeEntry(f"{entry.text!r} lies in a folder that has no entry")
        self._indices[path] = len(self)
        self._add(entry)

    def append_files(
        self,
        above: bytes,
        names: Sequence[bytes],
        sizes: Sequence[int],
        modes: Sequence[int],
        mtimes: Sequence[int],
    ) -> None:
        """Append the next files of one folder.

        Raises:
            UnsafeEntry: as ``append`` does.
        """
        for name, size, mode, mtime in zip(names, sizes, modes, mtimes, strict=True):
            self.append(FolderEntry(above + name, EntryKind.FILE, size, mode, mtime))


class WrittenLayout(FolderLayout):
    """The payload of such a folder, as far as the entries are known.

    A shard ends after each file, so files go out one by one; a large file has shards of its own, as always.
    Added entries move nothing but the end of the tar.
    """

    def __init__(self, table: WrittenTable, shard_size: int) -> None:
        """Lay out a growing table.

        Raises:
            TooManyShards: shards of this size would be too many.
        """
        self.table = table
        self.shard_size = shard_size
        self._pax = {}
        self._starts = array("Q")
        self.entries_end = 0
        self.size = len(END)
        self.large = LEAST_LARGE
        self.extend()

    def extend(self) -> None:
        """Lay out the entries added to the table since the last call.

        Raises:
            TooManyShards: shards of this size would be too many.
        """
        for index in range(len(self._starts), len(self.table)):
            entry = self.table[index]
            blocks = len(entry_header(entry))
            if blocks > BLOCK:
                self._pax[index] = blocks - BLOCK
            self._starts.append(self.entries_end)
            self.entries_end += blocks + entry.size + padding(entry.size)
        self.size = self.entries_end + len(END)
        if self.size // self.shard_size + 2 * len(self.table) + 1 > MAX_SHARDS:
            raise TooManyShards(
                f"{self.size} bytes in shards of {self.shard_size}; at most {MAX_SHARDS} can be had"
            )

    @property
    def settled(self) -> int:
        """Offset after the shards unaffected by added entries."""
        return deque(self.segments(), 1)[0].offset

    def segments(self) -> Iterator[Segment]:
        """Yield the segments of the payload, in order."""
        position = 0
        for index, size in enumerate(self.table.sizes):
            body = self.body(index)
            if size >= self.large:
                yield Segment(position, body - position, None)
                yield Segment(body, size, index)
                position = body + size
            elif size:
                end = body + size + padding(size)
                yield Segment(position, end - position, None)
                position = end
        yield Segment(position, self.size - position, None)
