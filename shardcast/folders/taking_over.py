"""Remains of an arriving folder after its process ended: files of the list stay, all else is removed."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator

from shardcast.directories import let_owner_write
from shardcast.folders.entries import EntryKind
from shardcast.folders.places import FolderPlaces
from shardcast.folders.tree import OpenTree

_FOLDER = 0o700
_FILE = 0o600


def take_over(root: int, places: FolderPlaces) -> None:
    """Keep the files and folders in the list of entries, and remove everything else.

    Kept entries become readable and writable for this user; the bytes of files are verified later, piece by
    piece. Unwanted files and files with several names are removed, too; too long ones are cut.

    Args:
        root: the descriptor of the arriving folder, accessible to this user only.
        places: told of the files here.

    Raises:
        OSError: the folder can't be read, or an entry can't be removed.
    """
    table = places.layout.table
    with OpenTree(os.dup(root)) as tree:
        pending = [b""]
        while pending:
            above = pending.pop()
            folder = tree.folder(above)
            for name, found in _entries(folder):
                path = above + name
                if stat.S_ISDIR(found.st_mode) and table.find(path + b"/") is not None:
                    os.chmod(name, _FOLDER, dir_fd=folder)
                    pending.append(path + b"/")
                    continue
                index = table.find(path)
                if index is not None and not places.selection.is_made(index):
                    index = None
                is_file = index is not None and table[index].kind is EntryKind.FILE
                if index is not None and is_file and stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
                    os.chmod(name, _FILE, dir_fd=folder)
                    if found.st_size > table.size(index):
                        _cut(name, folder, table.size(index))
                    places.mark_present(index)
                else:
                    _remove(name, folder, found)


def _entries(folder: int) -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield the names in a folder with their states; of links, the links' own."""
    for name in os.listdir(folder):
        encoded = os.fsencode(name)
        yield encoded, os.stat(encoded, dir_fd=folder, follow_symlinks=False)


def _cut(name: bytes, folder: int, size: int) -> None:
    """Cut a file to the given size."""
    descriptor = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.ftruncate(descriptor, size)
    finally:
        os.close(descriptor)


def _remove(name: bytes, folder: int, found: os.stat_result) -> None:
    """Remove an entry of a folder, with all contents."""
    if stat.S_ISDIR(found.st_mode):
        try:
            shutil.rmtree(os.fsdecode(name), dir_fd=folder)
        except PermissionError:  # closed to its owner, who is not root
            let_owner_write(f"/proc/self/fd/{folder}/{os.fsdecode(name)}")
            shutil.rmtree(os.fsdecode(name), dir_fd=folder)
    else:
        os.unlink(name, dir_fd=folder)
