"""Temporary files: how they are made, named, and found again after a kill.

Every temporary file is made by ``create_private``: new, no link followed, closed to other users.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
from pathlib import Path

PART = ".part"
"""The suffix of every temporary name."""
MAX_STEM = 230
"""Bytes of a file's name repeated in its temporary name; file systems take names of 255."""
NOT_OURS = (
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.ENXIO,
    errno.EISDIR,
    errno.ENODEV,
    errno.ETXTBSY,
)
"""Errors of opening a temporary file whose name is taken by another user's file, a link, a device or a
folder."""

_PRIVATE = 0o600
_TOKEN = 16
"""Random hex digits of a temporary name, so no other process chooses the same name."""
_STEM_DIGEST = 8
"""Hex digits of a long name's SHA-256 in its temporary names."""


def create_private(path: Path | str) -> int:
    """Create a file readable and writable only by this user, and return its descriptor, open for both.

    Raises:
        FileExistsError: the name is taken, even by a dangling link.
        OSError: the file cannot be made.
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _PRIVATE)


def temporary_name(path: Path) -> Path:
    """Return a unique name beside ``path``: ``.<name>~<16 hex digits>.part``."""
    return path.with_name(f".{stem_of(path.name).removeprefix('.')}~{secrets.token_hex(_TOKEN // 2)}{PART}")


def stem_of(name: str, limit: int = MAX_STEM) -> str:
    """Return the part of a file's name repeated in its temporary names.

    This is the name itself; for a name over ``limit`` bytes, its beginning and a digest of the whole name.
    """
    encoded = os.fsencode(name)
    if len(encoded) <= limit:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:_STEM_DIGEST]
    start = encoded[: limit - _STEM_DIGEST - 1]
    try:
        encoded.decode()
    except UnicodeDecodeError:
        return f"{os.fsdecode(start)}~{digest}"
    return f"{start.decode(errors='ignore')}~{digest}"  # whole characters: some file systems refuse others


def is_temporary_of(name: str, final: str) -> bool:
    """Return whether ``temporary_name`` could have given a file's name for the final name."""
    stem = re.escape(stem_of(final).removeprefix("."))
    return re.fullmatch(rf"\.{stem}~[0-9a-f]{{{_TOKEN}}}{re.escape(PART)}", name) is not None


def leftovers(path: Path) -> list[Path]:
    """Return the temporary files of ``path``: those of killed processes, and those being written now.

    The list is empty where the folder can't be listed.
    """
    with contextlib.suppress(OSError):
        return [entry for entry in path.parent.iterdir() if is_temporary_of(entry.name, path.name)]
    return []


def clear_leftovers(path: Path) -> None:
    """Remove the temporary files of ``path`` left by killed processes.

    The caller makes sure that no process is writing any.

    Raises:
        OSError: a file cannot be removed.
    """
    for part in leftovers(path):
        part.unlink(missing_ok=True)
