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
"""The end of every temporary name."""
MAX_STEM = 230
"""Bytes of a file's name that its temporary name repeats; the rest of the 255 is for what it adds."""
NOT_OURS = (
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.ENXIO,
    errno.EISDIR,
    errno.ENODEV,
    errno.ETXTBSY,
)
"""Errors that say that what has a temporary file's name is another user's, a link, a device or a folder."""

_PRIVATE = 0o600
_TOKEN = 16
"""Hex digits that make a temporary name one that no other process has."""
_STEM_DIGEST = 8
"""Hex digits of a long name's SHA-256 in its temporary names."""


def create_private(path: Path | str) -> int:
    """Create a file that only this user can read and write; return its descriptor, open for both.

    Raises:
        FileExistsError: something has the name, be it a link that leads nowhere.
        OSError: the file can't be made.
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _PRIVATE)


def temporary_name(path: Path) -> Path:
    """Return a name beside ``path`` that no other process chooses: ``.<name>~<16 hex digits>.part``."""
    return path.with_name(f".{stem_of(path.name).removeprefix('.')}~{secrets.token_hex(_TOKEN // 2)}{PART}")


def stem_of(name: str, limit: int = MAX_STEM) -> str:
    """Return what temporary names repeat of a file's name: the name itself, or where that is over ``limit``
    bytes its beginning with a digest of the whole."""
    encoded = os.fsencode(name)
    if len(encoded) <= limit:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:_STEM_DIGEST]
    begin = encoded[: limit - _STEM_DIGEST - 1]
    try:
        encoded.decode()
    except UnicodeDecodeError:
        return f"{os.fsdecode(begin)}~{digest}"
    return f"{begin.decode(errors='ignore')}~{digest}"  # some file systems take whole characters only


def is_temporary_of(name: str, final: str) -> bool:
    """Return whether a file's name is one that ``temporary_name`` gives for the final name."""
    stem = re.escape(stem_of(final).removeprefix("."))
    return re.fullmatch(rf"\.{stem}~[0-9a-f]{{{_TOKEN}}}{re.escape(PART)}", name) is not None


def leftovers(path: Path) -> list[Path]:
    """Return the temporary files of ``path`` that killed processes left, or that others are just writing;
    none where the folder can't be listed."""
    with contextlib.suppress(OSError):
        return [entry for entry in path.parent.iterdir() if is_temporary_of(entry.name, path.name)]
    return []


def clear_leftovers(path: Path) -> None:
    """Remove the temporary files of ``path`` that killed processes left, once nobody else writes any.

    Raises:
        OSError: one can't be removed.
    """
    for part in leftovers(path):
        part.unlink(missing_ok=True)
