"""Open files: write all bytes, sync, close, and compare with the file at a path."""

from __future__ import annotations

import os
from pathlib import Path


def close(descriptor: int) -> None:
    """Close a descriptor, and ignore an error.

    The descriptor is closed in any case (close(2)): a second try could close another file, opened meanwhile
    with the same number. Bytes to be durable were synced before.
    """
    try:
        os.close(descriptor)
    except OSError:  # in these words, since suppress() takes as long as the call: folders have many files
        return


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of ``data`` at the descriptor's position; one write(2) may take only a part.

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
    """Return whether a path is the open file itself, not a symbolic link to the file or another file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False
