"""The entries of a folder wanted by a reader: all of them, or those chosen by patterns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from shardcast.folders.entries import EntryKind, FolderEntry
from shardcast.folders.patterns import PathPatterns
from shardcast.folders.table import FolderTable


class FolderSelection:
    """Entries to make, and the paths for the bytes of files.

    A folder is made if an entry in it is wanted. If only other names of a file are wanted, the first of these
    gets the bytes.

    Attributes:
        is_all: whether every entry is wanted.
        only: patterns, one of them to match; none for all paths.
        exclude: patterns of unwanted paths.
    """

    def __init__(self, table: FolderTable, only: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        """Choose the paths with a match in ``only``, if not empty, and without a match in ``exclude``.

        Raises:
            UsageError: a pattern is malformed.
        """
        self._table = table
        self.only, self.exclude = tuple(only), tuple(exclude)
        self.is_all = not only and not exclude
        self._wanted = bytearray(b"\1" * len(table))
        self._paths: dict[int, bytes] = {}
        if not self.is_all:
            self._choose(PathPatterns(only) if only else None, PathPatterns(exclude))

    def _choose(self, only: PathPatterns | None, exclude: PathPatterns) -> None:
        """Choose the wanted entries."""
        needed: set[bytes] = {b""}
        for index in range(len(self._table) - 1, -1, -1):  # what is in a folder comes before it
            path = self._table.path(index)
            chosen = (only is None or only.match_or_above(path)) and not exclude.match_or_above(path)
            self._wanted[index] = chosen or path in needed
            if self._wanted[index]:
                needed.add(path[: path.rstrip(b"/").rfind(b"/") + 1])
        for index, entry in enumerate(self._table):
            if entry.kind is EntryKind.HARD_LINK and self._wanted[index]:
                first = self._table.find(entry.link)
                if first is not None and not self._wanted[first]:
                    self._paths.setdefault(first, entry.path)

    def extend(self) -> None:
        """Choose all new entries of the table; only for a selection of all entries."""
        self._wanted.extend(b"\1" * (len(self._table) - len(self._wanted)))

    def has_bytes_of(self, index: int) -> bool:
        """Return whether the bytes of a file are wanted."""
        return bool(self._wanted[index]) or index in self._paths

    def is_made(self, index: int) -> bool:
        """Return whether an entry is made at its own path."""
        return bool(self._wanted[index])

    def path(self, index: int) -> bytes:
        """Return the path of a file's bytes."""
        return self._paths.get(index) or self._table.path(index)

    def unsettled(self, is_settled: Callable[[int], bool]) -> Iterator[tuple[int, FolderEntry]]:
        """Yield the entries to make, like ``entries``, without the settled files."""
        if not self.is_all:
            yield from self.entries()
            return
        for index in range(len(self._table)):
            if not is_settled(index):
                yield index, self._table[index]

    def counts(self) -> Mapping[bytes, int]:
        """Return the number of entries to make in each folder, by path; ``b""`` is the folder itself."""
        if self.is_all:
            return self._table.counts()
        paths = (entry.path for _, entry in self.entries())
        return Counter(path[: path.rstrip(b"/").rfind(b"/") + 1] for path in paths)

    def entries(self) -> Iterator[tuple[int, FolderEntry]]:
        """Yield the entries to make, in order, each with the index of the entry with its bytes."""
        for index, entry in enumerate(self._table):
            if not self._wanted[index]:
                continue
            first = self._table.find(entry.link) if entry.kind is EntryKind.HARD_LINK else None
            moved = self._paths.get(first) if first is not None else None
            if first is None or moved is None:
                yield index, entry
            elif moved == entry.path:
                yield first, replace(self._table[first], path=moved)
            else:
                yield index, replace(entry, link=moved)
