"""Folders on the disk, made by hypothesis: odd names, links of both kinds, modes, holes, large files."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from hypothesis import strategies as st

from shardcast.folders.entries import EntryKind
from shardcast.folders.table import FolderTable
from tests.support.folder_tables import folder_tables

HALF_SECOND = 500_000_000
"""Nanoseconds that each file is newer than its entry says: times are rounded down."""


@dataclass(frozen=True)
class Node:
    """What readers of a folder rely on at one path of it.

    Attributes:
        kind: the type in a mode, as ``stat.S_IFMT`` has it.
        mode: permission bits; 0 for a symbolic link.
        mtime: seconds, rounded down; 0 for a folder.
        content: the bytes of a file, the target of a symbolic link.
        same_as: the first path, in order, of the same file.
    """

    kind: int
    mode: int
    mtime: int
    content: bytes
    same_as: bytes


@dataclass(frozen=True)
class FolderTree:
    """A folder that can be written to the disk.

    Attributes:
        table: its entries.
        seed: of the bytes of its files.
    """

    table: FolderTable
    seed: int

    def content(self, index: int) -> bytes:
        """Return the bytes of a file: random ones, around zeros in every second file."""
        size = self.table.size(index)
        data = bytearray(random.Random(f"{self.seed} {self.table.path(index)!r}").randbytes(size))
        if index % 2:
            data[size // 4 : size // 2] = bytes(size // 2 - size // 4)
        return bytes(data)

    def write(self, root: Path) -> Path:
        """Make the folder at a path where nothing is; zeros in files become holes."""
        top = os.fsencode(root)
        os.mkdir(top)
        for index, entry in enumerate(self.table):
            path = os.path.join(top, entry.path)
            if entry.kind is EntryKind.FOLDER:
                os.mkdir(path)
            elif entry.kind is EntryKind.SYMLINK:
                os.symlink(entry.link, path)
            elif entry.kind is EntryKind.HARD_LINK:
                os.link(os.path.join(top, entry.link), path)
            else:
                _write_sparse(path, self.content(index))
        for entry in reversed(self.table):  # the modes of folders last: some let nothing be made in them
            path = os.path.join(top, entry.path)
            if entry.kind is not EntryKind.SYMLINK:
                os.chmod(path, entry.mode)
            ns = entry.mtime * 10**9 + HALF_SECOND
            os.utime(path, ns=(ns, ns), follow_symlinks=False)
        return root

    def nodes(self) -> dict[bytes, Node]:
        """Return what ``read_tree`` finds where the folder was written."""
        found: dict[bytes, Node] = {}
        for index, entry in enumerate(self.table):
            path = entry.path.rstrip(b"/")
            if entry.kind is EntryKind.FOLDER:
                found[path] = Node(stat.S_IFDIR, entry.mode, 0, b"", path)
            elif entry.kind is EntryKind.SYMLINK:
                found[path] = Node(stat.S_IFLNK, 0, entry.mtime, entry.link, path)
            elif entry.kind is EntryKind.HARD_LINK:
                found[path] = found[entry.link]
            else:
                found[path] = Node(stat.S_IFREG, entry.mode, entry.mtime, self.content(index), path)
        return found


def read_tree(root: Path) -> dict[bytes, Node]:
    """Return all that lies in a folder, by paths relative to it."""
    firsts: dict[tuple[int, int], bytes] = {}
    return {path: _node(os.path.join(os.fsencode(root), path), path, firsts) for path in _paths(root)}


def _paths(root: Path) -> list[bytes]:
    """Return the paths in a folder in the order of its entries, where a folder's ends in ``/``."""

    def walk(folder: bytes) -> Iterator[bytes]:
        with os.scandir(folder) as entries:
            for entry in entries:
                yield entry.path + (b"/" if entry.is_dir(follow_symlinks=False) else b"")
                if entry.is_dir(follow_symlinks=False):
                    yield from walk(entry.path)

    top = os.fsencode(root)
    return [path[len(top) + 1 :].rstrip(b"/") for path in sorted(walk(top))]


def _node(full: bytes, path: bytes, firsts: dict[tuple[int, int], bytes]) -> Node:
    """Return what lies at one path; ``firsts`` has the first path of each file."""
    found = os.lstat(full)
    kind, mode, mtime = stat.S_IFMT(found.st_mode), found.st_mode & 0o777, found.st_mtime_ns // 10**9
    if kind == stat.S_IFDIR:
        return Node(kind, mode, 0, b"", path)
    if kind == stat.S_IFLNK:
        return Node(kind, 0, mtime, os.readlink(full), path)
    first = firsts.setdefault((found.st_dev, found.st_ino), path)
    return Node(kind, mode, mtime, Path(os.fsdecode(full)).read_bytes(), first)


def _write_sparse(path: bytes, data: bytes) -> None:
    """Write a file; leave blocks of zeros out."""
    with open(path, "xb") as file:
        for start in range(0, len(data), 4096):
            block = data[start : start + 4096]
            if any(block):
                file.seek(start)
                file.write(block)
        file.truncate(len(data))


@st.composite
def folder_trees(draw: st.DrawFn, large: int = 1 << 20) -> FolderTree:
    """Draw a folder that its owner may read, with at most two files of ``large`` bytes or some more."""
    drawn = draw(folder_tables())
    files = [index for index, entry in enumerate(drawn) if entry.kind is EntryKind.FILE]
    grown = draw(st.lists(st.sampled_from(files), max_size=2, unique=True)) if files else []
    table = FolderTable()
    for index, entry in enumerate(drawn):
        if entry.kind is EntryKind.FOLDER:
            table.append(replace(entry, mode=entry.mode | 0o700))
        elif entry.kind is EntryKind.SYMLINK:
            table.append(entry)
        else:
            size = large + draw(st.integers(0, 3 * 4096)) if index in grown else entry.size
            table.append(replace(entry, mode=entry.mode | 0o400, size=size))
    return FolderTree(table, draw(st.integers(0, 1 << 32)))
