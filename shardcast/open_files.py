"""Open files: writing all bytes, syncing, closing, and comparing with the file that a path names."""

from __future__ import annotations

import os
from pathlib import Path


def close(descriptor: int) -> None:
    """Close a descriptor, and ignore an error.

    The descriptor is closed in any case (close(2)): a second try would close another file that has its number
    by then. Whatever must be durable was synced before.
    """
    try:
        os.close(descriptor)
    except OSError:  # in these words, since suppress() takes as long as the call: folders have many files
        return


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of ``data`` at the descriptor's position; write(2) may take a part of it.

    Raises:
        OSError: the disk failed.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_file(file: Path) -> None:
    """Make a file's bytes durable.

    Raises:
        OSError: the file can't be opened, or the disk failed.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        close(descriptor)


def is_at(descriptor: int, path: Path | str) -> bool:
    """Return whether a path names the open file itself, neither a symbolic link to it nor another file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False
