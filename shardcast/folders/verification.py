"""A folder on the disk, compared with its version: names, modes, times, every byte."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from shardcast.concurrency import ThreadPool
from shardcast.disk_errors import disk_errors
from shardcast.folders.entries import PERMISSIONS, EntryKind, FolderEntry
from shardcast.folders.layout import FileRange, FolderLayout, FolderShard
from shardcast.folders.selection import FolderSelection
from shardcast.folders.tree import OpenTree
from shardcast.open_files import close
from shardcast.protocol.manifest import Manifest, Shard

_CHUNK = 1 << 20
"""Bytes read and hashed at a time."""
_THREADS = min(8, os.cpu_count() or 1)
"""Shards hashed at once: SHA-256 takes a core."""
_KINDS = {
    EntryKind.FILE: stat.S_ISREG,
    EntryKind.HARD_LINK: stat.S_ISREG,
    EntryKind.SYMLINK: stat.S_ISLNK,
    EntryKind.FOLDER: stat.S_ISDIR,
}
_KIND_WORDS = {
    EntryKind.FILE: "file",
    EntryKind.HARD_LINK: "file",
    EntryKind.SYMLINK: "symbolic link",
    EntryKind.FOLDER: "folder",
}

_CLOSED = "can't be read: no permission"


@dataclass(frozen=True, slots=True)
class Difference:
    """An entry that differs from the published one.

    Attributes:
        path: relative to the folder; with ``/`` at the end for a folder.
        what: the difference, in words.
    """

    path: str
    what: str


class FolderVerification:
    """One comparison of a folder with its version; blocks on the disk.

    Attributes:
        done: bytes of the payload compared so far.
    """

    def __init__(
        self, folder: Path, layout: FolderLayout, manifest: Manifest, selection: FolderSelection | None = None
    ) -> None:
        """Make a comparison, to be started by ``run``.

        Args:
            folder: the folder.
            layout: the entries in the manifest.
            manifest: the version's manifest.
            selection: the expected entries; None for all.
        """
        self.done = 0
        self._folder = folder
        self._layout = layout
        self._manifest = manifest
        self._selection = selection or FolderSelection(layout.table)
        self._unreadable: set[int] = set()
        self._stopped = False

    def stop(self) -> None:
        """Let ``run`` end early, from any thread."""
        self._stopped = True

    def run(self) -> Iterator[Difference]:
        """Yield the differences: first in names, modes and times, then in bytes.

        Raises:
            LocalDiskError: the folder can't be read.
        """
        with disk_errors("could not read", self._folder), OpenTree.at(self._folder) as tree:
            yield from self._compare_entries(tree)
            yield from self._find_strangers(tree)
        with ThreadPool(_THREADS, "shardcast-verify") as pool:
            yield from self._compare_bytes(pool)

    # Names, modes and times

    def _compare_entries(self, tree: OpenTree) -> Iterator[Difference]:
        """Yield the entries missing, or with another kind, size, mode or time."""
        for index, entry in self._selection.entries():
            if self._stopped:
                return
            try:
                found = tree.stat(entry.path)
            except (FileNotFoundError, NotADirectoryError):
                self._unreadable.add(index)
                yield Difference(entry.text, "is missing")
                continue
            except PermissionError:
                self._unreadable.add(index)
                yield Difference(entry.text, _CLOSED)
                continue
            what = self._difference(entry, found, tree)
            if what:
                if entry.kind is EntryKind.FILE and (
                    not stat.S_ISREG(found.st_mode) or found.st_size != entry.size
                ):
                    self._unreadable.add(index)
                yield Difference(entry.text, what)

    def _difference(self, entry: FolderEntry, found: os.stat_result, tree: OpenTree) -> str:
        """Return the difference in an entry, except for bytes; empty for an entry as published."""
        if not _KINDS[entry.kind](found.st_mode):
            return f"is no {_KIND_WORDS[entry.kind]}"
        if entry.kind is EntryKind.FILE and found.st_size != entry.size:
            return f"has {found.st_size} bytes, not {entry.size}"
        if entry.kind is EntryKind.SYMLINK:
            folder, name = tree.parent(entry.path)
            target = os.readlink(name, dir_fd=folder)
            return "" if target == entry.link else f"leads to {os.fsdecode(target)!r}"
        if entry.kind is EntryKind.HARD_LINK and not os.path.samestat(found, tree.stat(entry.link)):
            return f"is another file than {os.fsdecode(entry.link)!r}"
        if found.st_mode & PERMISSIONS != entry.mode:
            return f"has the mode {found.st_mode & PERMISSIONS:03o}, not {entry.mode:03o}"
        if entry.kind is not EntryKind.FOLDER and found.st_mtime_ns // 10**9 != entry.mtime:
            return f"was written to at {found.st_mtime_ns // 10**9}, not {entry.mtime} (seconds since 1970)"
        return ""

    def _find_strangers(self, tree: OpenTree) -> Iterator[Difference]:
        """Yield the names in the folder unknown to the version."""
        made = [entry for _, entry in self._selection.entries() if entry.kind is EntryKind.FOLDER]
        folders = [b"", *(entry.path for entry in made)]
        for folder in folders:
            try:
                with os.scandir(tree.folder(folder)) as found:
                    names = sorted(os.fsencode(each.name) for each in found)
            except (FileNotFoundError, NotADirectoryError):
                continue  # told already
            except PermissionError:
                yield Difference(os.fsdecode(folder), _CLOSED)
                continue
            for name in names:
                path = folder + name
                if not self._is_made(path) and not self._is_made(path + b"/"):
                    yield Difference(os.fsdecode(path), "does not belong to the version")

    def _is_made(self, path: bytes) -> bool:
        """Return whether an entry is expected at a path."""
        index = self._layout.table.find(path)
        return index is not None and self._selection.is_made(index)

    # Bytes

    def _compare_bytes(self, pool: ThreadPool) -> Iterator[Difference]:
        """Yield the files with wrong bytes; shards are hashed in threads, a bounded number at once."""
        under_way: list[Future[list[Difference]]] = []
        for placed, shard in zip(self._layout.shards(), self._manifest.shards, strict=True):
            if self._stopped:
                break
            under_way.append(pool.submit(self._compare_shard, placed, shard))
            if len(under_way) > 2 * _THREADS:
                yield from under_way.pop(0).result()
        for future in under_way:
            yield from future.result()

    def _compare_shard(self, placed: FolderShard, shard: Shard) -> list[Difference]:
        """Return the files of a shard whose bytes are wrong."""
        parts = list(self._layout.parts(placed.offset, placed.offset + placed.size))
        all_files = {part.index for part in parts if isinstance(part, FileRange)}
        files = set(filter(self._selection.has_bytes_of, all_files))
        if all_files and not files:
            return []
        complete = files == all_files and files.isdisjoint(self._unreadable)
        with disk_errors("could not read", self._folder), OpenTree.at(self._folder) as tree:
            try:
                if complete and self._has_digest(tree, parts, shard):
                    return []
            except PermissionError:
                pass  # the file is found and named below
            found = [self._fault(tree, index, placed, shard) for index in sorted(files - self._unreadable)]
        wrong = [difference for difference in found if difference]
        read = complete and files.isdisjoint(self._unreadable)  # another shard's thread may have named one
        if read and not wrong and not self._stopped:
            return [Difference(".", f"has wrong bytes in shard {shard.number}, in no file that has a digest")]
        return wrong

    def _fault(self, tree: OpenTree, index: int, placed: FolderShard, shard: Shard) -> Difference | None:
        """Return the difference of a file in a wrong shard; None for a file with the right bytes."""
        path = self._selection.path(index)
        try:
            if placed.index is None and self._is_right(tree, index):
                return None
            close(tree.open_file(path))
        except PermissionError:
            self._unreadable.add(index)  # named once
            return Difference(os.fsdecode(path), _CLOSED)
        return Difference(os.fsdecode(path), f"has wrong bytes in shard {shard.number}")

    def _has_digest(self, tree: OpenTree, parts: list[bytes | FileRange], shard: Shard) -> bool:
        """Return whether the parts of a shard together have the shard's digest."""
        whole = sha256()
        for part in parts:
            if isinstance(part, bytes):
                whole.update(part)
            else:
                self._hash_range(tree, part, whole.update)
        self.done += shard.size
        return whole.hexdigest() == shard.sha256

    def _is_right(self, tree: OpenTree, index: int) -> bool:
        """Return whether a small file has the listed digest; a file without one counts as right."""
        expected = self._layout.table.digest(index)
        found = sha256()
        self._hash_range(tree, FileRange(index, 0, self._layout.table.size(index)), found.update)
        return expected is None or found.digest() == expected

    def _hash_range(self, tree: OpenTree, part: FileRange, update: Callable[[memoryview], object]) -> None:
        """Hash a range of a file; bytes missing at the end are left out."""
        descriptor = tree.open_file(self._selection.path(part.index))
        try:
            buffer = memoryview(bytearray(min(_CHUNK, part.length)))
            position, end = part.offset, part.offset + part.length
            while position < end and not self._stopped:
                count = os.preadv(descriptor, [buffer[: min(len(buffer), end - position)]], position)
                if not count:
                    return
                update(buffer[:count])
                position += count
        finally:
            close(descriptor)
