"""Copies of files, sharing blocks or the inode with the original if the file system can."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

_FICLONE = 0x40049409
"""Number of the ioctl that clones a file, from linux/fs.h."""
_NO_COPY_RANGE = (errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY)
"""Errors of copy_file_range(2) for two files it cannot copy between."""
_CHUNK = 8 << 20
"""Bytes copied at a time."""


def hard_link(known: Path, name: Path) -> bool:
    """Give a file a second name (a hard link); return False on failure."""
    try:
        name.hardlink_to(known)
    except OSError:
        return False
    return True


def clone_bytes(source: int, target: int) -> bool:
    """Have an empty file share the blocks of another until one is written to (ioctl_ficlonerange(2)).

    Args:
        source: descriptor of the file with the blocks.
        target: descriptor of the empty file.

    Returns:
        False where the file system can't share blocks.
    """
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def copy_bytes(source: int, target: int) -> None:
    """Copy a whole file into an empty one; share blocks, or copy in the kernel, where the file system can.

    Raises:
        OSError: the source can't be read, or the target can't be written.
    """
    if clone_bytes(source, target):
        return
    position, size = 0, os.fstat(source).st_size
    by_system = hasattr(os, "copy_file_range")
    while position < size:
        count = min(size - position, _CHUNK)
        try:
            done = os.copy_file_range(source, target, count, position, position) if by_system else -1
        except OSError as error:
            if error.errno not in _NO_COPY_RANGE:
                raise
            done = -1
        if done < 0:
            by_system = False
            data = os.pread(source, count, position)
            done = os.pwrite(target, data, position) if data else 0
        if not done:
            raise OSError(errno.EIO, "the file became shorter while it was copied")
        position += done
