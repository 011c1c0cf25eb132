"""The states of the files of a finished folder; a later comparison shows the files touched since."""

from __future__ import annotations

import errno
import json
import os
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Self

from shardcast.file_identity import WORD
from shardcast.file_owners import is_trusted
from shardcast.folders.identities import column_bytes
from shardcast.folders.table import FolderTable
from shardcast.folders.tree import OpenTree
from shardcast.json_text import parse_json
from shardcast.protocol.manifest import MAX_ENTRIES
from shardcast.store.link_changes import LinkChange

_COLUMNS = 4
_MAX_HEAD = 1 << 16


class FileStates:
    """Inode, size, mtime and ctime of each entry but folders, in columns: 33 bytes an entry.

    One more byte marks files hashed here: the digest in the manifest is certain for these only.
    """

    def __init__(self, values: array[int], hashed: bytearray) -> None:
        """Make states from the columns of all entries, four numbers each, and a mark for each hashed file."""
        self._values = values
        self._hashed = hashed

    @classmethod
    def of(cls, tree: OpenTree, table: FolderTable, hashed: bytearray | None = None) -> Self:
        """Return the states of all entries of a folder; a missing one counts as touched.

        Args:
            tree: the folder.
            table: the entries of the folder.
            hashed: a byte for each entry, 1 for a hashed file.

        Raises:
            OSError: the state of an entry can't be read.
        """
        values = array("Q", [0]) * (_COLUMNS * len(table))
        for first, above, names in table.runs():
            try:
                found = array("Q", _run_state(tree, above, names))
            except FileNotFoundError:  # one by one, without those that are not there
                found = array("Q")
                for name in names:
                    found.extend(_state_or_none(tree, above + name))
            values[first * _COLUMNS : (first + len(names)) * _COLUMNS] = found
        return cls(values, hashed or bytearray(len(table)))

    def __len__(self) -> int:
        return len(self._values) // _COLUMNS

    def is_unchanged(self, tree: OpenTree, table: FolderTable) -> bool:
        """Return whether all entries still look as they did; False where one can't be looked at."""
        try:
            return all(
                self._values[first * _COLUMNS : (first + len(names)) * _COLUMNS]
                == array("Q", _run_state(tree, above, names))
                for first, above, names in table.runs()
            )
        except OSError:
            return False

    def is_same(self, index: int, found: os.stat_result) -> bool:
        """Return whether an open file is the recorded one, and was not touched since."""
        return self._values[index * _COLUMNS : (index + 1) * _COLUMNS] == array("Q", _numbers(found))

    def is_known(self, index: int, found: os.stat_result) -> bool:
        """Return whether an open file is the recorded one, was hashed, and was not touched since."""
        return bool(self._hashed[index]) and self.is_same(index, found)

    def renew(self, index: int, tree: OpenTree, path: bytes) -> None:
        """Record an entry anew after a change of ours; an unreadable one counts as touched."""
        found = array("Q", _state_or_none(tree, path))
        self._values[index * _COLUMNS : (index + 1) * _COLUMNS] = found

    def encode(
        self, manifest: str, only: Sequence[str], exclude: Sequence[str]
    ) -> Iterator[bytes | memoryview]:
        """Yield the bytes of the file of states, part by part.

        Args:
            manifest: SHA-256 of the version's manifest.
            only: patterns of the wanted paths of the folder; none for all.
            exclude: patterns of the unwanted paths.
        """
        head = {"manifest": manifest, "entries": len(self), "order": sys.byteorder}
        if only or exclude:
            head |= {"only": list(only), "exclude": list(exclude)}
        yield json.dumps(head).encode() + b"\n"
        yield column_bytes(self._values)
        yield memoryview(self._hashed)

    @classmethod
    def load(cls, path: Path, manifest: str, entries: int) -> Self | None:
        """Return the states of a folder; None without whole, readable states for this manifest.

        Args:
            path: their file.
            manifest: SHA-256 of the version's manifest.
            entries: the number of entries in the manifest.
        """
        try:
            with open_trusted(path) as file:
                head = parse_json(file.readline(_MAX_HEAD))
                expected = {"manifest": manifest, "entries": entries, "order": sys.byteorder}
                if (
                    not isinstance(head, dict)
                    or not expected.items() <= head.items()
                    or entries > MAX_ENTRIES
                ):
                    return None
                values = array("Q")
                values.frombytes(file.read(8 * _COLUMNS * entries))
                hashed = bytearray(file.read(entries + 1))
        except (OSError, ValueError):
            return None
        whole = len(values) == _COLUMNS * entries and len(hashed) == entries
        return cls(values, hashed) if whole else None


def renewed_states(data: bytes, changes: Iterable[LinkChange]) -> bytes | None:
    """Return the bytes of a record after changes by this process; None where no recorded file changed."""
    before = {_numbers(change.before): _numbers(change.after) for change in changes if change.same_content}
    head, end, columns = data.partition(b"\n")
    values, length = array("Q"), len(columns) // (8 * _COLUMNS + 1) * 8 * _COLUMNS
    values.frombytes(columns[:length])
    renewed = False
    for at in range(0, len(values), _COLUMNS):
        after = before.get((values[at], values[at + 1], values[at + 2], values[at + 3]))
        if after:
            values[at : at + _COLUMNS] = array("Q", after)
            renewed = True
    return head + end + values.tobytes() + columns[length:] if renewed else None


def read_patterns(path: Path, manifest: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the patterns of the wanted and the unwanted paths of a folder; none of both for a whole folder.

    Args:
        path: the file of the folder's states.
        manifest: SHA-256 of the version's manifest; the file counts only if written for this manifest.
    """
    try:
        with open_trusted(path) as file:
            head = parse_json(file.readline(_MAX_HEAD))
    except (OSError, ValueError):
        return (), ()
    if not isinstance(head, dict) or head.get("manifest") != manifest:
        return (), ()
    only, exclude = (head.get(key) or () for key in ("only", "exclude"))
    if not all(isinstance(found, (list, tuple)) for found in (only, exclude)):
        return (), ()
    return tuple(map(str, only)), tuple(map(str, exclude))


def open_trusted(path: Path) -> BinaryIO:
    """Open a file left beside a folder by a download.

    Raises:
        OSError: the file can't be read; PermissionError for a stranger's file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    file = os.fdopen(descriptor, "rb")
    if not is_trusted(os.fstat(descriptor), path.parent.stat()):
        file.close()
        raise PermissionError(errno.EPERM, "another user wrote it, in a folder writable by every user")
    return file


def _state_or_none(tree: OpenTree, path: bytes) -> tuple[int, int, int, int]:
    """Return the state of an entry; four zeros for an unreadable one."""
    try:
        return _numbers(tree.stat(path))
    except OSError:
        return 0, 0, 0, 0


def _run_state(tree: OpenTree, above: bytes, names: Iterable[bytes]) -> Iterator[int]:
    """Return the states of names in a folder, behind each other.

    Raises:
        OSError: one can't be looked at.
    """
    folder = tree.folder(above)
    return chain.from_iterable(
        _numbers(os.stat(name, dir_fd=folder, follow_symlinks=False)) for name in names
    )


def _numbers(found: os.stat_result) -> tuple[int, int, int, int]:
    """Return the numbers that change when a file is replaced, written to, or given another mode or name."""
    return (
        found.st_ino & WORD,
        found.st_size,
        found.st_mtime_ns & WORD,
        found.st_ctime_ns & WORD,
    )
