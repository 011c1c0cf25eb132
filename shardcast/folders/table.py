"""All entries of a folder in columns: a million of them take some 60 MB with their digests."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, islice, pairwise
from operator import lt
from typing import overload

from shardcast.folders.entries import (
    EntryKind,
    FolderEntry,
    UnsafeEntry,
    are_plain_names,
    are_plain_numbers,
    check_entry,
)
from shardcast.protocol.manifest import MAX_ENTRIES

MAX_BYTES = 1 << 61
"""Bytes of all files together; with headers and padding a payload may have twice as many."""
_RUN = 1000
"""Entries examined together."""
_DIGEST = 32
_NO_DIGEST = bytes(_DIGEST)
_KINDS = {int(kind): kind for kind in EntryKind}  # calling the enumeration costs as much as all the rest

Row = tuple[bytes, int, int, int]
"""Path, size, mode and time of an entry."""


class FolderTable(Sequence[FolderEntry]):
    """The entries of a folder, sorted by the bytes of their paths.

    Each folder stands directly before its contents: all paths that begin with the folder's path.
    """

    def __init__(self) -> None:
        """Begin with no entry."""
        self._paths = bytearray()
        self._ends = array("Q")
        self._kinds = bytearray()
        self._modes = array("H")
        self._sizes = array("Q")
        self._mtimes = array("q")
        self._links: dict[int, bytes] = {}
        self._digests = bytearray()
        self._bytes = 0
        self._open_folders: list[bytes] = []
        self._last = b""

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> FolderEntry: ...

    @overload
    def __getitem__(self, index: slice) -> list[FolderEntry]: ...

    def __getitem__(self, index: int | slice) -> FolderEntry | list[FolderEntry]:
        if isinstance(index, slice):
            return [self._entry(each) for each in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._entry(index % len(self))

    def _entry(self, index: int) -> FolderEntry:
        """Return the entry at an index within bounds."""
        return FolderEntry(
            self.path(index),
            _KINDS[self._kinds[index]],
            self._sizes[index],
            self._modes[index],
            self._mtimes[index],
            self._links.get(index, b""),
        )

    def __iter__(self) -> Iterator[FolderEntry]:
        return map(self._entry, range(len(self)))

    @property
    def path_bytes(self) -> int:
        """Bytes of all paths and targets of links."""
        return len(self._paths) + sum(map(len, self._links.values()))

    @property
    def sizes(self) -> Sequence[int]:
        """The bytes of each entry."""
        return self._sizes

    @property
    def mtimes(self) -> Sequence[int]:
        """The time of each entry."""
        return self._mtimes

    @property
    def links(self) -> Mapping[int, bytes]:
        """The targets of links, by the links' indices."""
        return self._links

    def paths(self, start: int, end: int) -> list[bytes]:
        """Return the paths of the entries from ``start`` to ``end``."""
        first = self._ends[start - 1] if start else 0
        ends = [first, *self._ends[start:end]]
        blob = bytes(self._paths[first : ends[-1]])
        return [blob[a - first : b - first] for a, b in pairwise(ends)]

    def rows(self, start: int, end: int) -> Iterator[Row]:
        """Yield path, size, mode and time of the entries from ``start`` to ``end``."""
        columns = self._sizes[start:end], self._modes[start:end], self._mtimes[start:end]
        return zip(self.paths(start, end), *columns, strict=True)

    def odd_paths(self, max_length: int) -> Iterator[int]:
        """Yield the indices of entries whose path is over ``max_length`` bytes or not ASCII."""
        is_ascii, start = self._paths.isascii(), 0
        for index, end in enumerate(self._ends):
            if end - start > max_length or not (is_ascii or self._paths[start:end].isascii()):
                yield index
            start = end

    def path(self, index: int) -> bytes:
        """Return the path of an entry."""
        return bytes(self._paths[self._ends[index - 1] if index else 0 : self._ends[index]])

    def kind(self, index: int) -> EntryKind:
        """Return the kind of an entry."""
        return _KINDS[self._kinds[index]]

    def mode(self, index: int) -> int:
        """Return the permission bits of an entry."""
        return self._modes[index]

    def mtime(self, index: int) -> int:
        """Return the time of an entry."""
        return self._mtimes[index]

    def size(self, index: int) -> int:
        """Return the bytes of an entry."""
        return self._sizes[index]

    def is_at(self, index: int, entry: FolderEntry) -> bool:
        """Return whether the entry at an index is this one."""
        return (
            self._sizes[index] == entry.size
            and self._mtimes[index] == entry.mtime
            and self._modes[index] == entry.mode
            and self._kinds[index] == entry.kind
            and self._links.get(index, b"") == entry.link
            and self.path(index) == entry.path
        )

    def has_same(self, index: int, other: FolderTable, other_index: int) -> bool:
        """Return whether an entry equals one of another table except for the path."""
        return (
            self._sizes[index] == other._sizes[other_index]
            and self._mtimes[index] == other._mtimes[other_index]
            and self._modes[index] == other._modes[other_index]
            and self._kinds[index] == other._kinds[other_index]
            and self._links.get(index) == other._links.get(other_index)
        )

    def find(self, path: bytes) -> int | None:
        """Return the index of the entry at a path; None where none is."""
        index = bisect_left(range(len(self)), path, key=self.path)
        return index if index < len(self) and self.path(index) == path else None

    def append(self, entry: FolderEntry) -> None:
        """Append the next entry.

        Raises:
            UnsafeEntry: the entry is unsafe, out of order, there twice, in no folder of the table, or a hard
                link to no file of the table.
        """
        check_entry(entry)
        if len(self) >= MAX_ENTRIES:
            raise UnsafeEntry(f"more than {MAX_ENTRIES} entries")
        if self._bytes + entry.size > MAX_BYTES:
            raise UnsafeEntry(f"files of more than {MAX_BYTES} bytes together")
        path = entry.path
        if path <= self._last:
            raise UnsafeEntry(f"{entry.text!r} stands behind {self._last.decode('utf-8', 'replace')!r}")
        above = path[: path.rstrip(b"/").rfind(b"/") + 1]
        if above != self._folder_of(path):
            raise UnsafeEntry(f"{entry.text!r} lies in a folder that has no entry")
        if entry.kind is EntryKind.FOLDER:
            if self.find(path[:-1]) is not None:
                raise UnsafeEntry(f"{entry.text!r} is a folder and something else")
            self._open_folders.append(path)
        elif entry.kind is EntryKind.HARD_LINK:
            first = self.find(entry.link)
            if first is None or self._kinds[first] != EntryKind.FILE:
                raise UnsafeEntry(f"{entry.text!r} is a hard link to no file before it")
        self._add(entry)

    def _add(self, entry: FolderEntry) -> None:
        """Add a checked entry."""
        path = self._last = entry.path
        self._bytes += entry.size
        self._paths += path
        self._ends.append(len(self._paths))
        self._kinds.append(entry.kind)
        self._modes.append(entry.mode)
        self._sizes.append(entry.size)
        self._mtimes.append(entry.mtime)
        if entry.link:
            self._links[len(self) - 1] = entry.link

    def append_files(
        self,
        above: bytes,
        names: Sequence[bytes],
        sizes: Sequence[int],
        modes: Sequence[int],
        mtimes: Sequence[int],
    ) -> None:
        """Append the next files of one folder, like ``append`` one by one, at a fraction of the cost.

        Args:
            above: path of the folder; ``b""`` for the top.
            names: of the files in the folder.
            sizes: their bytes.
            modes: their permission bits.
            mtimes: their times.

        Raises:
            UnsafeEntry: as for ``append``.
        """
        total = sum(sizes)
        is_plain = (
            bool(names)
            and are_plain_names(above, names)
            and are_plain_numbers(sizes, modes, mtimes)
            and len(self) + len(names) <= MAX_ENTRIES
            and self._bytes + total <= MAX_BYTES
            and self._last < above + names[0]
            and all(map(lt, names, islice(names, 1, None)))
            and self._folder_of(above + names[0]) == above
        )
        if not is_plain:  # one by one, for the words of the error, or rare names that are safe all the same
            for name, size, mode, mtime in zip(names, sizes, modes, mtimes, strict=True):
                self.append(FolderEntry(above + name, EntryKind.FILE, size, mode, mtime))
            return
        start = len(self._paths)
        self._paths += above + above.join(names)
        self._ends.extend(
            islice(accumulate((len(above) + len(name) for name in names), initial=start), 1, None)
        )
        self._kinds += bytes(len(names))
        self._sizes.extend(sizes)
        self._modes.extend(modes)
        self._mtimes.extend(mtimes)
        self._bytes += total
        self._last = above + names[-1]

    def _folder_of(self, path: bytes) -> bytes:
        """Return the deepest open folder for a next path, and leave the folders around other paths."""
        while self._open_folders and not path.startswith(self._open_folders[-1]):
            self._open_folders.pop()
        return self._open_folders[-1] if self._open_folders else b""

    def counts(self) -> dict[bytes, int]:
        """Return the number of entries in each folder, by path; ``b""`` is the folder itself."""
        counts: dict[bytes, int] = {}
        for _, above, names in self.runs():
            counts[above] = counts.get(above, 0) + len(names)
        for path in self.folders():
            above = path[: path.rfind(b"/", 0, -1) + 1]
            counts[above] = counts.get(above, 0) + 1
        return counts

    def folders(self) -> Iterator[bytes]:
        """Yield the paths of the folders in order."""
        index = self._kinds.find(EntryKind.FOLDER)
        while index >= 0:
            yield self.path(index)
            index = self._kinds.find(EntryKind.FOLDER, index + 1)

    def runs(self) -> Iterator[tuple[int, bytes, list[bytes]]]:
        """Yield runs of consecutive files and links in one folder, at most ``_RUN`` at once.

        Yields:
            The index of the first one, the path of the folder, and the names.
        """
        first, above, names = 0, b"", list[bytes]()
        for start in range(0, len(self), _RUN):
            for index, path in enumerate(self.paths(start, min(start + _RUN, len(self))), start):
                at = path.rfind(b"/") + 1
                if names and (at == len(path) or path[:at] != above or len(names) == _RUN):
                    yield first, above, names
                    names = []
                if at < len(path):
                    if not names:
                        first, above = index, path[:at]
                    names.append(path[at:])
        if names:
            yield first, above, names

    # Digests of files

    def digest(self, index: int) -> bytes | None:
        """Return the SHA-256 of a file; None if unknown."""
        found = bytes(self._digests[index * _DIGEST : (index + 1) * _DIGEST])
        return found if found and found != _NO_DIGEST else None

    def clear_digests(self) -> None:
        """Forget the SHA-256 of all files."""
        self._digests = bytearray()

    def set_digest(self, index: int, sha256: bytes) -> None:
        """Note the SHA-256 of a file."""
        if not self._digests:
            self._digests = bytearray(len(self) * _DIGEST)
        self._digests[index * _DIGEST : (index + 1) * _DIGEST] = sha256
