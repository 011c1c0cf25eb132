"""The entries of a folder that a reader wants: all of them, or those that patterns choose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from shardcast.folders.entries import EntryKind, FolderEntry
from shardcast.folders.patterns import PathPatterns
from shardcast.folders.table import FolderTable


class FolderSelection:
    """Entries to make, and where the bytes of files go.

    A folder is made where something in it is wanted. Of a file of which only other names are wanted, the
    first of these gets the bytes.

    Attributes:
        is_all: whether every entry is wanted.
        only: the patterns of which one must match; none for all paths.
        exclude: the patterns of what is not wanted.
    """

    def __init__(self, table: FolderTable, only: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        """Choose what matches a pattern of ``only``, where there is one, and none of ``exclude``.

        Raises:
            UsageError: one of them is no pattern.
        """
        self._table = table
        self.only, self.exclude = tuple(only), tuple(exclude)
        self.is_all = not only and not exclude
        self._wanted = bytearray(b"\1" * len(table))
        self._paths: dict[int, bytes] = {}
        if not self.is_all:
            self._choose(PathPatterns(only) if only else None, PathPatterns(exclude))

    def _choose(self, only: PathPatterns | None, exclude: PathPatterns) -> None:
        """Note what is wanted."""
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
        """Choose all entries that the table got since; only where all are chosen."""
        self._wanted.extend(b"\1" * (len(self._table) - len(self._wanted)))

    def has_bytes_of(self, index: int) -> bool:
        """Return whether the bytes of a file are wanted."""
        return bool(self._wanted[index]) or index in self._paths

    def is_made(self, index: int) -> bool:
        """Return whether an entry is made at its own path."""
        return bool(self._wanted[index])

    def path(self, index: int) -> bytes:
        """Return the path at which the bytes of a file are."""
        return self._paths.get(index) or self._table.path(index)

    def unsettled(self, is_settled: Callable[[int], bool]) -> Iterator[tuple[int, FolderEntry]]:
        """Yield the entries to make, as ``entries`` does, without the files that are settled."""
        if not self.is_all:
            yield from self.entries()
            return
        for index in range(len(self._table)):
            if not is_settled(index):
                yield index, self._table[index]

    def counts(self) -> Mapping[bytes, int]:
        """Return how many entries each folder gets, by its path; ``b""`` is the folder itself."""
        if self.is_all:
            return self._table.counts()
        paths = (entry.path for _, entry in self.entries())
        return Counter(path[: path.rstrip(b"/").rfind(b"/") + 1] for path in paths)

    def entries(self) -> Iterator[tuple[int, FolderEntry]]:
        """Yield the entries to make, in order, each with the index of the one that has its bytes."""
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
