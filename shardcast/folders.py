"""Folders: made durably and shared with their group, synced, removed."""

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
"""What is said where a folder may only be passed through."""


def sync_folder(folder: Path) -> None:
    """Make names that appeared in a folder durable, where its file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        sync_open_folder(descriptor, folder)
    finally:
        close(descriptor)


def sync_name(folder: Path) -> None:
    """Make the name of a folder durable, where that can be."""
    try:
        sync_folder(folder.parent)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def new_folder(folder: Path, exist_ok: bool = False) -> None:
    """Make a folder, which the group may write that may write the folder it is in, where that is setgid.

    Raises:
        OSError: it can't be made; FileExistsError, unless ``exist_ok``, when it is there.
    """
    try:
        folder.mkdir()
    except FileExistsError:
        if not exist_ok or not folder.is_dir():
            raise
    else:
        share_like(folder)


def new_folders(folder: Path) -> list[Path]:
    """Make a folder and those above it that are missing, and return those that were."""
    missing = [one for one in (folder, *folder.parents) if not one.is_dir()]
    for one in reversed(missing):
        new_folder(one, exist_ok=True)
    return missing


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, durably.

    The name of ``folder`` itself is synced in any case: another process may have made it, and been killed
    before it came to that.

    Raises:
        OSError: a folder can't be made.
    """
    for one in dict.fromkeys((*new_folders(folder), folder)):
        sync_name(one)


class DurableFolders:
    """Makes folders below a root, durably; threads may share it.

    The name of each is synced once, whoever made it: another process may have been killed before it came to
    that, or be about to.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._certain = {root}

    def make(self, folder: Path) -> None:
        """Make a folder, and those above it that are missing.

        Raises:
            OSError: a folder can't be made.
        """
        above = [one for one in (folder, *folder.parents) if one.is_relative_to(self._root)]
        missing = new_folders(folder)
        for one in above:
            if one in missing or one not in self._certain:
                sync_name(one)
                self._certain.add(one)


def remove_tree(path: Path | str) -> bool:
    """Remove a folder and all in it, as far as that can be; return whether nothing is left."""
    with contextlib.suppress(OSError):  # before Python 3.12 some errors come although they are to be ignored
        shutil.rmtree(path, ignore_errors=True)
    try:
        os.lstat(path)
    except FileNotFoundError:
        return True
    except OSError:  # nobody knows
        return False
    return False
