"""The end of an arriving folder: empty files, links, modes and times, all made durable."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from shardcast.concurrency import ThreadPool
from shardcast.errors import LocalDiskError
from shardcast.file_copies import copy_bytes
from shardcast.file_locks import is_in_memory
from shardcast.file_systems import NO_LINKS, NO_SPECIAL_FILES
from shardcast.folders.entries import EntryKind, FolderEntry
from shardcast.folders.file_states import FileStates
from shardcast.folders.growing_tree import GrowingTree
from shardcast.folders.places import FolderPlaces
from shardcast.open_files import close

_SYNCERS = 8
"""Threads that sync files: a file system combines the writes of several waiting threads."""
_SYNCED_AT_ONCE = 256
"""Maximum files open at once for syncing."""
_PATH = "utf-8", "surrogateescape"


def finish_folder(root: int, places: FolderPlaces) -> FileStates:
    """Make the entries without shards, set all modes and times, and sync.

    Args:
        root: the descriptor of the folder.
        places: the entries, with all bytes here.

    Returns:
        The states of the files now.

    Raises:
        LocalDiskError: the file system takes two names for one, or has no symbolic links.
        OSError: an entry can't be made.
    """
    with GrowingTree(os.dup(root), makes=True) as tree, GrowingTree(os.dup(root)) as firsts:
        finisher = _Finisher(tree, firsts, places)
        finisher.make_entries()
        finisher.sync_files()
        finisher.settle_folders()
        return FileStates.of(firsts, places.layout.table, places.hashed)


class _Finisher:
    """The steps of one folder; for one thread."""

    def __init__(self, tree: GrowingTree, firsts: GrowingTree, places: FolderPlaces) -> None:
        self._tree = tree
        self._firsts = firsts  # the first names of hard links
        self._places = places
        self._folders: list[FolderEntry] = []

    def make_entries(self) -> None:
        """Make missing entries, files before the links to them."""
        links: list[FolderEntry] = []
        for index, entry in self._places.selection.unsettled(self._places.is_settled):
            if entry.kind is EntryKind.FOLDER:
                self._folders.append(entry)
                self._tree.folder(entry.path)
            elif entry.kind is EntryKind.FILE:
                if not self._places.is_settled(index):
                    self._settle(entry)
            else:
                links.append(entry)
        for entry in links:
            if entry.kind is EntryKind.HARD_LINK:
                self._link(entry)
        for entry in links:
            if entry.kind is EntryKind.SYMLINK:
                self._symlink(entry)

    def _settle(self, entry: FolderEntry) -> None:
        """Set a file's size, mode and time."""
        descriptor = self._tree.open_file(entry.path, os.O_WRONLY | os.O_CREAT)
        try:
            if os.fstat(descriptor).st_size != entry.size:
                os.ftruncate(descriptor, entry.size)
            os.fchmod(descriptor, entry.mode)
            os.utime(descriptor, (entry.mtime, entry.mtime))
        finally:
            close(descriptor)

    def _link(self, entry: FolderEntry) -> None:
        """Give a file another name; a copy where the file system has no links."""
        source, first = self._firsts.parent(entry.link)
        folder, name = self._tree.parent(entry.path)
        try:
            os.link(first, name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
            return
        except FileExistsError:
            if os.path.samestat(self._firsts.stat(entry.link), self._tree.stat(entry.path)):
                raise _one_name(entry) from None
            raise
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
        found = self._firsts.stat(entry.link)
        known = os.open(first, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            copy = self._tree.open_file(entry.path, flags)
            try:
                copy_bytes(known, copy)
                os.fchmod(copy, stat.S_IMODE(found.st_mode))
                os.utime(copy, ns=(found.st_mtime_ns, found.st_mtime_ns))
            finally:
                close(copy)
        finally:
            close(known)

    def _symlink(self, entry: FolderEntry) -> None:
        """Make a symbolic link, and set its time."""
        folder, name = self._tree.parent(entry.path)
        try:
            os.symlink(entry.link, name, dir_fd=folder)
        except FileExistsError:
            raise _one_name(entry) from None
        except OSError as error:
            if error.errno in NO_SPECIAL_FILES:
                raise LocalDiskError(
                    f"{entry.text!r} is a symbolic link, and the file system there has none; "
                    "choose an output on another file system"
                ) from None
            raise
        with suppress(NotImplementedError):
            os.utime(name, (entry.mtime, entry.mtime), dir_fd=folder, follow_symlinks=False)

    def sync_files(self) -> None:
        """Make the bytes of all files durable; in memory nothing is."""
        if is_in_memory(self._tree.root):
            return
        with ThreadPool(_SYNCERS, "shardcast-sync") as pool:
            opened: list[int] = []
            try:
                for _, entry in self._places.selection.entries():
                    if entry.kind is EntryKind.FILE:
                        opened.append(self._open(entry))
                    if len(opened) == _SYNCED_AT_ONCE:
                        _sync_all(pool, opened)
                        while opened:
                            close(opened.pop())
                _sync_all(pool, opened)
            finally:
                while opened:
                    close(opened.pop())

    def _open(self, entry: FolderEntry) -> int:
        """Open a file for syncing, whatever its mode."""
        try:
            return self._tree.open_file(entry.path)
        except PermissionError:  # its mode does not let its owner read it
            folder, name = self._tree.parent(entry.path)
            os.chmod(name, entry.mode | 0o600, dir_fd=folder)
            try:
                return self._tree.open_file(entry.path)
            finally:
                os.chmod(name, entry.mode, dir_fd=folder)

    def settle_folders(self) -> None:
        """Check the names in all folders, and give the folders their modes and times, the deepest first.

        Raises:
            LocalDiskError: the file system takes two names for one, or there are names of other programs.
        """
        counts, folders = self._places.selection.counts(), self._folders
        for path in (*(entry.path for entry in reversed(folders)), b""):
            descriptor = self._tree.folder(path)
            count, expected = len(os.listdir(descriptor)), counts.get(path, 0)
            if count > expected:
                raise LocalDiskError(
                    f"the folder {path.decode(*_PATH)!r} has {expected} entries and {count} names: another "
                    "program wrote to it before it was complete; download it again"
                )
            if count < expected:
                raise LocalDiskError(
                    f"the folder {path.decode(*_PATH)!r} has {expected} entries and {count} names on this "
                    "file system, which takes some of them for one; choose an output on another one"
                )
            os.fsync(descriptor)
        for entry in reversed(folders):
            descriptor = self._tree.folder(entry.path)
            os.utime(descriptor, (0, 0))
            os.fchmod(descriptor, entry.mode)


def _sync_all(pool: ThreadPool, opened: list[int]) -> None:
    """Sync open files, each thread a part of them."""

    def sync(first: int) -> None:
        for descriptor in opened[first::_SYNCERS]:
            os.fsync(descriptor)

    list(pool.map(sync, range(min(_SYNCERS, len(opened)))))


def _one_name(entry: FolderEntry) -> LocalDiskError:
    """Return the error for two names taken for one by the file system."""
    return LocalDiskError(
        f"{entry.text!r} and another name of the folder are one on this file system; "
        "choose an output on another file system"
    )
