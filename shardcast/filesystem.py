"""Writing so that a name appears only when its bytes are on the disk."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import aiofiles

from shardcast.concurrency import to_its_end
from shardcast.errors import LocalDiskError, ShardcastError

PART = ".part"
"""The end of every temporary name."""

_FICLONE = 0x40049409
"""The request's number, from linux/fs.h."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def disk_errors(doing: str, path: Path | str) -> Iterator[None]:
    """Turn the system's errors into ``LocalDiskError``, which says what was done to which file."""
    try:
        yield
    except ShardcastError:
        raise
    except OSError as error:
        hint = "; free some space and try again, what is here is kept" if error.errno in _FULL else ""
        raise LocalDiskError(f"{doing} {path}: {error.strerror or error}{hint}") from error


def is_full(error: BaseException) -> bool:
    """Whether an error says that the disk is full."""
    return any(isinstance(one, OSError) and one.errno in _FULL for one in (error, error.__cause__))


def reserve(descriptor: int, offset: int, size: int) -> None:
    """Make sure that the disk has room for these bytes, and keep it."""
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


def link(known: Path, name: Path) -> bool:
    """Give a file another name; False where the file system can't."""
    try:
        name.hardlink_to(known)
    except OSError:
        return False
    return True


def clone(original: Path, copy: Path) -> bool:
    """Copy a file so that both share their blocks until one is written to (FICLONE, ioctl_ficlonerange(2));
    False where the file system can't.

    Raises:
        OSError: the original can't be read.
    """
    with original.open("rb") as source, copy.open("wb") as target:
        try:
            fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
        except OSError:
            copy.unlink()
            return False
        os.fsync(target.fileno())
    return True


def point(link: Path, target: str) -> None:
    """Have a symbolic link name ``target`` from one moment to the next.

    Raises:
        OSError: it can't be; FileExistsError when something else than a link has its name.
    """
    if link.exists() and not link.is_symlink():
        raise FileExistsError(errno.EEXIST, "it is there and is no symbolic link")
    part = link.with_name(f".{link.name}-{secrets.token_hex(4)}{PART}")
    part.symlink_to(target)
    try:
        rename(part, link)
    finally:
        part.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make names that appeared in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(file: Path) -> None:
    """Make a file's bytes durable."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(part: Path, final: Path) -> None:
    """Give durable bytes their final name, durably."""
    part.rename(final)
    sync_folder(final.parent)


def replace(path: Path, data: bytes) -> None:
    """Put ``data`` under ``path`` in one step.

    Raises:
        LocalDiskError: the disk is full, or may not be written.
    """
    part = path.with_name(path.name + PART)
    with disk_errors("could not write", path):
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        rename(part, path)


async def replace_soon(path: Path, data: bytes) -> None:
    """``replace`` without keeping the event loop waiting; when it is cancelled, it is done all the same."""
    await to_its_end(_replace_soon(path, data))


async def _replace_soon(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + PART)
    with disk_errors("could not write", path):
        async with aiofiles.open(part, "wb") as file:
            await file.write(data)
            await file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        await asyncio.to_thread(rename, part, path)
