"""Features missing in some file systems, and substitutes for them.

SMB and many FUSE file systems sync no folders; SMB, FAT and NFS with mapped users refuse permissions; some
have no links, no sockets, no named pipes; a rename may not lead to another disk, nor a folder out of a lower
layer of an overlay. Each lack is logged once for each file system. No other error is ever taken for a lack,
EIO least of all.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import sys
import threading
from pathlib import Path

log = logging.getLogger(__name__)

_NOT_THERE = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
NO_FOLDER_SYNC = (*_NOT_THERE, errno.EINVAL)
"""Errors of fsync(2) on a file system that syncs no folders."""
NO_PERMISSIONS = (*_NOT_THERE, errno.EPERM)
"""Errors of chmod(2) on an own file, on a file system without permissions."""
NO_SPECIAL_FILES = (*_NOT_THERE, errno.EPERM)
"""Errors of a file system without symbolic links, sockets or named pipes."""
NO_LINKS = (
    errno.EPERM,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EMLINK,
    errno.EACCES,
    errno.EXDEV,
    errno.ELOOP,
)
"""Errors of a hard link on a file system without hard links, or for a file that cannot have a second name."""
NO_LOCKS = (*_NOT_THERE, errno.ENOLCK, errno.EINVAL)
"""Errors of flock(2) on a file system without locks."""


def log_lack(path: Path | str, lack: str) -> None:
    """Log a feature missing in the file system of a path, once for each file system and lack.

    Args:
        path: a path on the file system.
        lack: the end of the message: ``syncs no folders: …``.
    """
    try:
        device = Path(path).lstat().st_dev
    except OSError:
        device = 0
    if _first(device, lack).acquire(blocking=False):
        log.warning("the file system of %s %s", Path(path).parent, lack)


def sync_open_folder(descriptor: int, folder: Path) -> None:
    """Make new names in an open folder durable, if the file system can.

    Raises:
        OSError: the disk failed.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
        log_lack(folder / ".", "syncs no folders: after a power cut the newest names may be missing")


def set_permissions(descriptor: int, mode: int, path: Path | str) -> None:
    """Set the permissions of an open file of this process, if the file system keeps any.

    Raises:
        OSError: the disk failed.
    """
    try:
        os.fchmod(descriptor, mode)
    except OSError as error:
        if error.errno not in NO_PERMISSIONS:
            raise
        log_lack(path, "keeps no permissions: any user who may write there can change verified files")


def reserve(descriptor: int, offset: int, size: int) -> None:
    """Reserve room on the disk for bytes of an open file.

    Where the file system can't reserve, the room is only checked.

    Raises:
        OSError: the disk has no room (ENOSPC), or failed.
    """
    try:
        if sys.platform == "darwin":  # has no such call
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        os.posix_fallocate(descriptor, offset, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        room = os.fstatvfs(descriptor)
        if room.f_bavail * room.f_frsize < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None


@functools.cache
def _first(device: int, lack: str) -> threading.Lock:
    """Return the lock of a lack; the first reporter takes the lock for good."""
    return threading.Lock()
