"""The identities of a folder's entries, to detect changes."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence

from shardcast.file_identity import WORD


class EntryIdentities:
    """Inode, mtime and ctime of each entry of a table, in columns: 24 bytes an entry."""

    def __init__(
        self,
        inodes: array[int] | None = None,
        mtimes: array[int] | None = None,
        ctimes: array[int] | None = None,
    ) -> None:
        """Begin with no entry, or with columns of equal lengths; times are in nanoseconds."""
        self._inodes = array("Q") if inodes is None else inodes
        self._mtimes = array("Q") if mtimes is None else mtimes
        self._ctimes = array("Q") if ctimes is None else ctimes

    def __len__(self) -> int:
        return len(self._inodes)

    @property
    def columns(self) -> tuple[array[int], array[int], array[int]]:
        """Inodes, mtimes and ctimes."""
        return self._inodes, self._mtimes, self._ctimes

    def append(self, found: os.stat_result) -> None:
        """Append the identity of the next entry."""
        self._inodes.append(found.st_ino)
        self._mtimes.append(found.st_mtime_ns & WORD)
        self._ctimes.append(found.st_ctime_ns & WORD)

    def extend(self, found: Sequence[os.stat_result]) -> None:
        """Append the identities of the next entries."""
        for column, values in zip(self.columns, _columns(found), strict=True):
            column.extend(values)

    def agree_all(self, first: int, found: Sequence[os.stat_result]) -> bool:
        """Return whether the entries from ``first`` on are the same and were not touched."""
        return all(
            column[first : first + len(found)] == values
            for column, values in zip(self.columns, _columns(found), strict=True)
        )

    def renew(self, index: int, found: os.stat_result) -> None:
        """Note the identity of an entry after a change of ours."""
        self._inodes[index] = found.st_ino
        self._mtimes[index] = found.st_mtime_ns & WORD
        self._ctimes[index] = found.st_ctime_ns & WORD

    def forget(self, index: int) -> None:
        """Mark an entry as unknown; it then counts as changed."""
        self._inodes[index] = self._mtimes[index] = self._ctimes[index] = 0

    def get(self, index: int) -> tuple[int, int, int]:
        """Return the inode, and mtime and ctime in nanoseconds, of an entry."""
        return self._inodes[index], self._mtimes[index], self._ctimes[index]

    def ctime(self, index: int) -> int:
        """Return the time of the last change of an entry, in nanoseconds."""
        return self._ctimes[index]

    def agree(self, index: int, found: os.stat_result) -> bool:
        """Return whether an entry is the same and was not touched."""
        return (
            self._inodes[index] == found.st_ino
            and self._mtimes[index] == found.st_mtime_ns & WORD
            and self._ctimes[index] == found.st_ctime_ns & WORD
        )


def column_bytes(column: array[int]) -> memoryview:
    """Return the bytes of a column, without a copy."""
    return memoryview(column).cast("B") if column else memoryview(b"")


def _columns(found: Sequence[os.stat_result]) -> tuple[array[int], array[int], array[int]]:
    """Return the identities of several entries in columns."""
    return (
        array("Q", [each.st_ino for each in found]),
        array("Q", [each.st_mtime_ns & WORD for each in found]),
        array("Q", [each.st_ctime_ns & WORD for each in found]),
    )
