"""Folders: making them durably and for their group, syncing the names in them, removing them."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

from shardcast.file_owners import share_like
from shardcast.file_systems import sync_open_folder
from shardcast.open_files import close

_NO_SYNC = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors of a folder this user may pass through but not open."""


def sync_folder(folder: Path) -> None:
    """Make new names in a folder durable, if the file system can.

    Raises:
        OSError: the folder cannot be opened, or the disk failed.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        sync_open_folder(descriptor, folder)
    finally:
        close(descriptor)


def sync_name(folder: Path) -> None:
    """Make the name of a folder durable, unless this user may not open the parent folder.

    Raises:
        OSError: the disk failed.
    """
    try:
        sync_folder(folder.parent)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def new_folder(folder: Path, exist_ok: bool = False) -> None:
    """Make a folder, writable by the group if the parent folder is shared with a group.

    Raises:
        FileExistsError: the name is taken; with ``exist_ok``, only by another kind of entry.
        OSError: the folder cannot be made.
    """
    try:
        folder.mkdir()
    except FileExistsError:
        if not exist_ok or not folder.is_dir():
            raise
    else:
        share_like(folder)


def new_folders(folder: Path) -> list[Path]:
    """Make a folder and its missing parents, and return the new folders, the lowest first.

    Raises:
        OSError: a folder cannot be made.
    """
    missing = [path for path in (folder, *folder.parents) if not path.is_dir()]
    for path in reversed(missing):
        new_folder(path, exist_ok=True)
    return missing


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents, durably.

    The name of ``folder`` is synced in any case: another process may have made the folder, and been killed
    before syncing the name.

    Raises:
        OSError: a folder can't be made.
    """
    for path in dict.fromkeys((*new_folders(folder), folder)):
        sync_name(path)


class DurableFolders:
    """A maker of durable folders below a root that syncs each name once; threads may share it.

    The name of each folder is synced once by this process, also for a folder made by another process: that
    one may have been killed before syncing the name, or may be about to do so.
    """

    def __init__(self, root: Path) -> None:
        """Take the root itself for durable."""
        self._root = root
        self._synced = {root}

    def make(self, folder: Path) -> None:
        """Make a folder and its missing parents, durably.

        Raises:
            OSError: a folder cannot be made.
        """
        below_root = [path for path in (folder, *folder.parents) if path.is_relative_to(self._root)]
        missing = new_folders(folder)
        for path in below_root:
            if path in missing or path not in self._synced:
                sync_name(path)
                self._synced.add(path)


def remove_tree(path: Path | str) -> bool:
    """Remove a folder with its content, as far as possible; return whether nothing is left.

    Folders without write permission for their owner get the mode 0700 first (Linux).
    """
    if _remove_tree(path) or not hasattr(os, "O_PATH"):
        return not os.path.lexists(path)
    let_owner_write(path)
    return _remove_tree(path)


def let_owner_write(path: Path | str) -> None:
    """Set the mode of a folder and those below to 0700, where this user may; no link is followed."""
    pending = [os.fspath(path)]
    while pending:
        folder = pending.pop()
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                Path(f"/proc/self/fd/{descriptor}").chmod(0o700)
            finally:
                close(descriptor)
            with os.scandir(folder) as entries:
                pending += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]


def _remove_tree(path: Path | str) -> bool:
    """Remove a folder with its content, as far as permissions allow; return whether nothing is left."""
    with contextlib.suppress(OSError):  # before Python 3.12 ignore_errors misses some
        shutil.rmtree(path, ignore_errors=True)
    try:
        os.lstat(path)
    except FileNotFoundError:
        return True
    except OSError:  # the folder around it can't be read: unknown
        return False
    return False
