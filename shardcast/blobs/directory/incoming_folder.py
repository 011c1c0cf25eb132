"""A process's folder for the temporary files of arriving blobs, removed at the end of the process."""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from shardcast.ages import age_of
from shardcast.blobs.directory.layout import BLOB_MODE, OWN_FOLDER, Folder, share_with_group
from shardcast.constants import LOCK_WAIT
from shardcast.directories import remove_tree, sync_folder
from shardcast.disk_errors import disk_errors
from shardcast.file_locks import Lock, is_local, locked, open_lock_file, try_lock
from shardcast.filesystem import give_name
from shardcast.open_files import close, is_at, write_all
from shardcast.temporary_files import PART, create_private

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_INLINE_SIZE = 64 << 10
"""Bytes of the largest blob handled in the event loop: a thread would take longer."""
_SLOW = 0.002
"""Seconds: when storing a small blob takes longer, the next ones are stored in threads, several at a time."""
_LOCK = "lock"
_STALE = 86400.0
"""Seconds without a change until a folder counts as a dead process's where no lock tells."""


class IncomingFolder:
    """A process's own folder for temporary files in a directory of blobs.

    A lock in the folder, gone with the process, shows the folder to be in use. A new process removes the
    folders whose lock is free. A folder whose name or lock was removed is made again.
    """

    def __init__(self, root: str, prepare: Callable[[], object] = lambda: None) -> None:
        """Make the folder; ``prepare`` is called first, here and before the folder is made again.

        Raises:
            LocalDiskError: the folder can't be made.
        """
        self._root, self._prepare = Path(root), prepare
        self._numbers = itertools.count(1)
        self._lock = -1
        self._folder = self._root
        self._making = threading.Lock()
        self._slow = False
        self._to_remove: list[Path] = []
        self._synced_parents: set[str] = set()
        with disk_errors("could not prepare to put blobs into", self._root):
            self._make()

    def _make(self) -> None:
        """Make the folder with its lock, and remove the folders of ended processes.

        Raises:
            OSError, LocalDiskError: the folder can't be made.
        """
        self._prepare()
        place = self._root / OWN_FOLDER / "incoming"
        place.mkdir(parents=True, exist_ok=True)
        share_with_group(str(place.parent))
        share_with_group(str(place))
        # One process at a time: none finds another's new folder before its lock.
        with locked(place / _LOCK, LOCK_WAIT):
            dead = _dead(place)
            folder = place / secrets.token_hex(8)
            folder.mkdir()
            _, lock = _try_lock(folder)
        self._folder, self._lock = folder, lock
        for dead_folder, dead_lock in dead:  # no other process removes it: we hold its lock
            remove_tree(dead_folder)
            close(dead_lock)

    def _make_again(self) -> None:
        """Make the folder again if its name or its lock was removed; else do nothing."""
        with self._making:
            if self._lock < 0 or is_at(self._lock, self._folder / _LOCK):
                return
            log.warning("%s was removed, and is made again", self._folder)
            previous, lock = self._folder, self._lock
            self._make()
            self._to_remove.append(previous)  # blobs that are arriving there may still be completed
            close(lock)

    def create(self) -> tuple[str, int]:
        """Make a temporary file, and return its name and its descriptor.

        Raises:
            OSError, LocalDiskError: the file can't be made.
        """
        return self._with_new_name(create_private)

    def create_folder(self) -> Path:
        """Make a temporary folder, to be removed by the caller with ``remove_folder``.

        Raises:
            OSError, LocalDiskError: the folder can't be made.
        """
        name, _ = self._with_new_name(os.mkdir)
        return Path(name)

    def _with_new_name(self, make: Callable[[str], T]) -> tuple[str, T]:
        """Return an unused name in the folder, and the result of ``make`` for it."""
        self._make_again()
        try:
            name = self._new_name()
            return name, make(name)
        except FileNotFoundError:  # the folder was removed since the check
            self._make_again()
            name = self._new_name()
            return name, make(name)

    def _new_name(self) -> str:
        """Return a name never used before."""
        return f"{self._folder}/{next(self._numbers)}{PART}"

    def make_parent(self, folder: Folder, digest: str) -> None:
        """Make the folder of a blob's file, durably.

        The name is synced once in this process, also for a folder made by another thread or process, perhaps
        not synced yet.

        Raises:
            OSError: the folder can't be made.
        """
        parent = folder.parent(digest)
        if folder.make_parent(digest) or parent not in self._synced_parents:
            sync_folder(Path(folder.root))
            self._synced_parents.add(parent)

    def replace(self, path: Path, data: bytes) -> None:
        """Replace a small file in one step; blocks on the disk. The new name is not synced.

        Raises:
            OSError: the bytes can't be kept.
        """
        name, descriptor = self.create()
        part = Path(name)
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
            give_name(descriptor, part, path, durable=False, mode=BLOB_MODE)
        finally:
            close(descriptor)

    def stores_inline(self, size: int) -> bool:
        """Return whether a blob of so many bytes is stored in the event loop rather than in a thread."""
        return size <= MAX_INLINE_SIZE and not self._slow

    def record_duration(self, size: int, seconds: float) -> None:
        """Have the next small blobs stored in threads if this small one took long; ignore a large one."""
        if size <= MAX_INLINE_SIZE:
            self._slow = seconds > _SLOW

    def remove_folder(self, place: Path) -> None:
        """Remove a folder made by ``create_folder``; blocks on the disk.

        A failed removal is repeated with the next one.
        """
        left, self._to_remove = [*self._to_remove, place], []
        self._to_remove += [folder for folder in left if not remove_tree(folder)]

    def close(self) -> None:
        """Remove the folder with all arrivals, then release its lock."""
        for folder in (*self._to_remove, self._folder):
            remove_tree(folder)  # the next process that starts removes the rest
        if self._lock >= 0:
            close(self._lock)
            self._lock = -1


def _try_lock(folder: Path) -> tuple[Lock, int]:
    """Try to lock a process's folder; return the outcome, and a descriptor that keeps the lock while open."""
    descriptor = open_lock_file(folder / _LOCK)
    try:
        return try_lock(descriptor), descriptor
    except BaseException:
        close(descriptor)
        raise


def _dead(place: Path) -> list[tuple[Path, int]]:
    """Return the folders of no living process, with the descriptors of their locks.

    Where a lock doesn't tell, on file systems without locks and over a network, a folder counts as dead after
    a day without a change inside.
    """
    found: list[tuple[Path, int]] = []
    for folder in place.iterdir():
        if not folder.is_dir():
            continue
        try:
            lock, descriptor = _try_lock(folder)
        except PermissionError:
            log.debug("left %s alone, another user's", folder)
            continue
        except OSError as error:
            log.warning("could not look into %s: %s", folder, error.strerror)
            continue
        if lock is Lock.HELD or not ((lock is Lock.TAKEN and is_local(descriptor)) or _is_stale(folder)):
            close(descriptor)
        else:
            found.append((folder, descriptor))
    return found


def _is_stale(folder: Path) -> bool:
    """Return whether neither a folder nor a file inside, but for the lock, has changed for a day."""
    try:
        return (
            min(age_of(file, file.stat()) for file in (folder, *folder.iterdir()) if file.name != _LOCK)
            > _STALE
        )
    except OSError:  # a file went meanwhile: its process is at work
        return False
