"""File locks, and their reach: on many network file systems no further than one machine."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import hashlib
import logging
import os
import re
import secrets
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from shardcast.file_systems import NO_LOCKS, log_lack

log = logging.getLogger(__name__)

PROCESS_ENDING = threading.Event()
"""Set when this process is to end: from then on no thread waits for a lock."""

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
"""Types of file systems with locks that reach every process with access to the file (statfs(2),
linux/magic.h). Others count as network file systems, also FUSE: the other end of FUSE is unknown."""
_MEMORY = frozenset({0x01021994, 0x858458F6})
"""Types of file systems in memory: tmpfs and ramfs."""
_STATFS_BYTES = 256
"""Bytes for a ``struct statfs``; the largest takes 120, and the first word is the type."""
_WARN_AFTER = 1.0
"""Seconds of waiting for a lock until a warning is logged."""
_POLL_INTERVAL = 0.01
"""Seconds between two attempts to lock."""


class Lock(Enum):
    """The outcome of an attempt to lock a file."""

    TAKEN = "taken"
    HELD = "held"
    """Another process has the lock."""
    NONE = "none"
    """The file system has no locks."""


def open_lock_file(path: Path | str) -> int:
    """Open a lock file, made if missing, and return its descriptor.

    Any process that can open the file can lock it and keep others waiting. So only this user may open the
    file, or the group if the group may write the folder.

    Raises:
        OSError: the file cannot be opened, or the name is a link.
    """
    mode = _lock_mode(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        found = os.fstat(descriptor)
        if (
            found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != mode
        ):  # for the umask, or an earlier version's
            with contextlib.suppress(OSError):
                os.fchmod(descriptor, mode)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def set_lock_mode(path: Path) -> None:
    """Set the mode of a lock file on a file of this user, without opening the file.

    For files with record locks (fcntl(2)), such as SQLite's: closing any descriptor of such a file drops all
    locks of the process on the file.

    Raises:
        OSError: the file is missing, or its mode cannot be changed.
    """
    mode, found = _lock_mode(path), path.lstat()
    if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != mode:
        path.chmod(mode)


def _lock_mode(path: Path | str) -> int:
    """Return the mode of a lock file at a path; see ``open_lock_file``."""
    return 0o660 if Path(path).parent.stat().st_mode & stat.S_IWGRP else 0o600


@contextlib.contextmanager
def locked(path: Path, seconds: float) -> Iterator[Lock]:
    """Hold the lock of a file.

    Args:
        path: the lock file, made where there is none.
        seconds: how long to wait for another process.

    Yields:
        ``TAKEN``, or ``NONE`` where the file system has no locks.

    Raises:
        BlockingIOError: another process kept the lock all the time, or this process is to end.
        OSError: the file can't be opened, or the disk failed.
    """
    try:
        descriptor = open_lock_file(path)
    except PermissionError:  # another user's in our group, of an earlier version: reading is enough to lock
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield _wait_for(descriptor, path, seconds)
    finally:
        with contextlib.suppress(OSError):  # it is closed in any case
            os.close(descriptor)


def _wait_for(descriptor: int, path: Path, seconds: float) -> Lock:
    """Lock an open file, and warn of a long wait; see ``locked``."""
    started, warned = time.monotonic(), False
    while (lock := try_lock(descriptor)) is Lock.HELD:
        waited = time.monotonic() - started
        if waited >= seconds or PROCESS_ENDING.is_set():
            raise BlockingIOError(
                errno.EAGAIN,
                f"{path} is locked by {lock_holder(descriptor)}; end it, or try again when it is done",
            )
        if waited >= _WARN_AFTER and not warned:
            warned = True
            log.warning("waiting for %s, which locks %s", lock_holder(descriptor), path)
        time.sleep(min(_POLL_INTERVAL, seconds - waited))
    if lock is Lock.NONE:
        log_lack(path, "has no locks: have only one process write there at a time")
    return lock


def lock_holder(descriptor: int) -> str:
    """Return the process with the lock on a file, in words, as far as known (proc_locks(5))."""
    inode = os.fstat(descriptor).st_ino
    with contextlib.suppress(OSError):
        found = re.search(rf"FLOCK.* (\d+) \S+:{inode} ", Path("/proc/locks").read_text())
        if found:
            return f"process {found[1]}"
    return "another process"


def try_lock(descriptor: int) -> Lock:
    """Lock an open file while its descriptor is open, unless another process has the lock.

    Raises:
        OSError: the disk failed.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return Lock.HELD
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return Lock.NONE
    return Lock.TAKEN


def excludes_others(path: Path | str) -> bool:
    """Return whether this process's lock on a file keeps a second descriptor of the file from locking.

    Only an attempt shows this: a mount option or a layer in between may let every lock succeed. Over NFS a
    lock belongs to the whole process, so the answer is no there too, on the safe side.

    Raises:
        OSError: the file cannot be opened again.
    """
    second = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return try_lock(second) is Lock.HELD
    finally:
        os.close(second)


def is_local(descriptor: int) -> bool:
    """Return whether an open file is on a disk or in memory of this machine: locks reach all users."""
    if sys.platform != "linux":
        return True
    return _kind(descriptor) in _LOCAL


def is_in_memory(descriptor: int) -> bool:
    """Return whether an open file is in memory of this machine, where nothing is durable or slow to sync."""
    return _kind(descriptor) in _MEMORY


def _kind(descriptor: int) -> int | None:
    """Return the type of an open file's file system; None if unknown."""
    if sys.platform != "linux":
        return None
    found = ctypes.create_string_buffer(_STATFS_BYTES)
    if _libc().fstatfs(descriptor, found):
        return None
    return int.from_bytes(found.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder) & 0xFFFFFFFF


@functools.cache
def machine_id() -> str:
    """Return 16 hex digits, different for each machine and for each start of a machine.

    Images are copied with their machine-id, and containers share a kernel: each source alone may be the same
    on two machines. A different id costs a copy of a temporary file; the same id could cost the file.
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
    """Return the C library, for fstatfs(2), missing in the standard library."""
    return ctypes.CDLL(None, use_errno=True)
