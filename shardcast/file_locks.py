"""Locks on files, and how far they reach: on many network file systems no further than one machine."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import hashlib
import os
import secrets
import socket
import sys
from enum import Enum
from pathlib import Path

_LOCAL = frozenset(
    {
        0xEF53,  # ext2, ext3, ext4
        0x58465342,  # xfs
        0x9123683E,  # btrfs
        0xCA451A4E,  # bcachefs
        0x2FC12FC1,  # zfs
        0xF2F52010,  # f2fs
        0x01021994,  # tmpfs
        0x858458F6,  # ramfs
        0x958458F6,  # hugetlbfs
        0x794C7630,  # overlayfs
        0x61756673,  # aufs
        0xF15F,  # ecryptfs
        0x3153464A,  # jfs
        0x52654973,  # reiserfs
        0x3434,  # nilfs
        0x4D44,  # fat
        0x2011BAB0,  # exfat
        0x7366746E,  # ntfs3
        0x482B,  # hfs+
    }
)
"""Types of file systems whose locks reach every process that can see the file (statfs(2), linux/magic.h).
Others are taken for network file systems, FUSE among them, since nothing tells who is at its other end."""
_STATFS_BYTES = 256
"""Bytes for a ``struct statfs``; the largest is 120. It begins with the type, a word of the machine."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class Lock(Enum):
    """What came of trying to lock a file."""

    TAKEN = "taken"
    HELD = "held"
    """Another process has it."""
    NONE = "none"
    """The file system has no locks."""


def open_lock_file(path: Path | str, mode: int) -> int:
    """Return the descriptor of a file that is there to be locked; made, with this ``mode``, where it is not.

    Raises:
        OSError: the file can't be opened, or a link has its name.
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode)


def try_lock(descriptor: int) -> Lock:
    """Lock an open file for as long as its descriptor is open, unless another has it locked.

    Raises:
        OSError: the disk failed.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return Lock.HELD
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return Lock.NONE
    return Lock.TAKEN


def keeps_away(path: Path | str) -> bool:
    """Return whether the lock that this process has on a file keeps a second descriptor of it away.

    It is tried, since a mount option or a layer in between may have every lock succeed. Over NFS a lock is
    one of the whole process, so the answer is no there too, which is only careful.

    Raises:
        OSError: the file can't be opened again.
    """
    second = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return try_lock(second) is Lock.HELD
    finally:
        os.close(second)


def is_local(descriptor: int) -> bool:
    """Return whether an open file is on a disk or in memory of this machine, and locks reach everybody."""
    if sys.platform != "linux":
        return True
    found = ctypes.create_string_buffer(_STATFS_BYTES)
    if _libc().fstatfs(descriptor, found):
        return False
    kind = int.from_bytes(found.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder)
    return kind & 0xFFFFFFFF in _LOCAL


@functools.cache
def machine_id() -> str:
    """Return 16 hex digits that two machines don't share, nor two starts of one machine.

    Images are copied with their machine-id, and containers share a kernel: each of the sources alone may be
    the same on two machines. A different id costs a copy of what is there; the same one could cost the file.
    """
    known = hashlib.sha256(socket.gethostname().encode())
    for source in ("/etc/machine-id", "/proc/sys/kernel/random/boot_id"):
        try:
            known.update(Path(source).read_bytes())
        except OSError:
            known.update(secrets.token_bytes(16) if "boot_id" in source else b"")
    return known.hexdigest()[:16]


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
