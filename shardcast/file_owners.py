"""Whose a file is, and who else may write it."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path


def is_ours(found: os.stat_result) -> bool:
    """Return whether a file is a regular one that only this user can write, under one name only."""
    return (
        stat.S_ISREG(found.st_mode)
        and found.st_uid == os.geteuid()
        and found.st_nlink == 1
        and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )


def is_trusted(found: os.stat_result, folder: os.stat_result) -> bool:
    """Return whether what lies in a folder was put there by somebody whom that folder's owner trusts.

    Who may replace a file may as well write it, so in most folders everything is. In a sticky one, as
    ``/tmp`` is, each user can change just their own: there only files of this user, of the folder's owner and
    of root are (the rule of ``fs.protected_symlinks`` in proc(5)).
    """
    return not folder.st_mode & stat.S_ISVTX or found.st_uid in (os.geteuid(), folder.st_uid, 0)


def is_shared(folder: os.stat_result) -> bool:
    """Return whether a folder was made to be written by all of its group: setgid, and writable by it."""
    return bool(folder.st_mode & stat.S_ISGID and folder.st_mode & stat.S_IWGRP)


def share_like(folder: Path) -> None:
    """Have a folder that was just made be written by its group, if that may write the folder around it."""
    above = folder.parent.stat()
    if is_shared(above):
        with contextlib.suppress(OSError):  # it stays usable for its owner
            inherited = stat.S_IRWXG | stat.S_ISGID | above.st_mode & stat.S_ISVTX
            folder.chmod(stat.S_IMODE(folder.stat().st_mode) | inherited)


def share_file(descriptor: int, path: Path) -> None:
    """Have an open file of ours be written by the group that may write its folder (``is_shared``)."""
    found = os.fstat(descriptor)
    mode, rights = stat.S_IMODE(found.st_mode), stat.S_IRGRP | stat.S_IWGRP
    is_to_share = found.st_uid == os.geteuid() and mode & rights != rights
    if is_to_share and is_shared(path.parent.stat()):
        with contextlib.suppress(OSError):  # it stays usable for its owner
            os.fchmod(descriptor, mode | rights)


def umask() -> int:
    """Return the permissions that new files of this process lack.

    Reading them where the system shows them changes nothing; elsewhere they are those of the start, since
    asking means setting them for every thread.
    """
    try:
        status = Path("/proc/self/status").read_bytes()
    except OSError:
        return _UMASK
    found = re.search(rb"^Umask:\t([0-7]+)$", status, re.MULTILINE)
    return int(found[1], 8) if found else _UMASK


def _first_umask() -> int:
    known = os.umask(0o077)
    os.umask(known)
    return known


_UMASK = _first_umask()
