"""Open files: written whole, synced, closed, and compared with what a path names."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def close(descriptor: int) -> None:
    """Close a descriptor, whatever the system says of it.

    It is closed in any case (close(2)), so that a second try would close another file that has its number by
    then; and what was to be durable was synced before.
    """
    with contextlib.suppress(OSError):
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of ``data`` where the descriptor stands."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_file(file: Path) -> None:
    """Make a file's bytes durable."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        close(descriptor)


def is_at(descriptor: int, path: Path | str) -> bool:
    """Return whether a path names the open file itself, no link to it and no other file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False
