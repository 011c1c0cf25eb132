"""Owners of files, and the users with write permission."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path


def is_ours(found: os.stat_result) -> bool:
    """Return whether a file is regular, has one name, and is writable only by this user."""
    return (
        stat.S_ISREG(found.st_mode)
        and found.st_uid == os.geteuid()
        and found.st_nlink == 1
        and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )


def is_trusted(found: os.stat_result, folder: os.stat_result) -> bool:
    """Return whether a file was put there by a user trusted by the folder's owner.

    In most folders a user who may replace a file may also write it, so every file is trusted. In a sticky
    folder such as ``/tmp`` each user can change only their own files: trusted are those of this user, of the
    folder's owner and of root (the rule of ``fs.protected_symlinks`` in proc(5)).
    """
    return not folder.st_mode & stat.S_ISVTX or found.st_uid in (os.geteuid(), folder.st_uid, 0)


def is_shared(folder: os.stat_result) -> bool:
    """Return whether a folder is shared with its group: setgid, and writable by the group."""
    return bool(folder.st_mode & stat.S_ISGID and folder.st_mode & stat.S_IWGRP)


def share_like(folder: Path) -> None:
    """Let the group write a new folder, if the parent folder is shared with its group.

    Raises:
        OSError: the parent folder cannot be read.
    """
    above = folder.parent.stat()
    if is_shared(above):
        with contextlib.suppress(OSError):  # it stays usable for its owner
            inherited = stat.S_IRWXG | stat.S_ISGID | above.st_mode & stat.S_ISVTX
            folder.chmod(stat.S_IMODE(folder.stat().st_mode) | inherited)


def share_file(descriptor: int, path: Path) -> None:
    """Let the group write an open file of this user, if the file's folder is shared with its group.

    Raises:
        OSError: the folder cannot be read.
    """
    found = os.fstat(descriptor)
    mode, rights = stat.S_IMODE(found.st_mode), stat.S_IRGRP | stat.S_IWGRP
    is_to_share = found.st_uid == os.geteuid() and mode & rights != rights
    if is_to_share and is_shared(path.parent.stat()):
        with contextlib.suppress(OSError):  # it stays usable for its owner
            os.fchmod(descriptor, mode | rights)


def umask() -> int:
    """Return the permissions missing in new files of this process.

    umask(2) reads the mask only by setting it, for every thread at once. So the mask is read from ``/proc``;
    on other systems once at the start.
    """
    try:
        status = Path("/proc/self/status").read_bytes()
    except OSError:
        return _UMASK
    found = re.search(rb"^Umask:\t([0-7]+)$", status, re.MULTILINE)
    return int(found[1], 8) if found else _UMASK


def _first_umask() -> int:
    """Return the umask at the start, before other threads make files."""
    known = os.umask(0o077)
    os.umask(known)
    return known


_UMASK = _first_umask()
