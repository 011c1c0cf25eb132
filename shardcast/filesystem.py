"""Temporary files, and how they get their names: a name appears only when its bytes are on the disk.

There is one way of making a temporary file (``create_private``: new, no link followed, closed to other users)
and one way of giving a name (``give_name``: the file that was written is the one that gets the name).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from shardcast.concurrency import in_thread
from shardcast.errors import LocalDiskError, ShardcastError

PART = ".part"
"""The end of every temporary name."""
MAX_STEM = 230
"""Bytes of a file's name that its temporary name repeats; the rest of the 255 is for what it adds."""

_PRIVATE = 0o600
_TOKEN = 8
"""Hex digits that make a temporary name one that no other process has."""
_FICLONE = 0x40049409
"""The request's number, from linux/fs.h."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_COPY_RANGE = (errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY)
_NO_LINKS = (
    errno.EPERM,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EMLINK,
    errno.EACCES,
    errno.EXDEV,
    errno.ELOOP,
)
_CHUNK = 8 << 20
"""Bytes that are copied at a time where the system can't copy by itself."""


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


# Temporary files


def create_private(path: Path | str) -> int:
    """Create a file that only this user can read and write; return its descriptor, open for both.

    Raises:
        FileExistsError: something has the name, be it a link that leads nowhere.
        OSError: the file can't be made.
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _PRIVATE)


def temporary_name(path: Path) -> Path:
    """Return a name beside ``path`` that no other process chooses: ``.<name>-<8 hex digits>.part``."""
    return path.with_name(f".{stem_of(path.name).removeprefix('.')}-{secrets.token_hex(_TOKEN // 2)}{PART}")


def stem_of(name: str, limit: int = MAX_STEM) -> str:
    """Return what temporary names repeat of a file's name: the name itself, or where that is over ``limit``
    bytes its beginning with a digest of the whole."""
    encoded = os.fsencode(name)
    if len(encoded) <= limit:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:_TOKEN]
    return f"{os.fsdecode(encoded[: limit - _TOKEN - 1])}~{digest}"


def leftovers(path: Path) -> list[Path]:
    """Return the temporary files of ``path`` that killed processes left, or that others are just writing."""
    stem = re.escape(stem_of(path.name).removeprefix("."))
    name = re.compile(rf"\.{stem}-[0-9a-f]{{{_TOKEN}}}{re.escape(PART)}")
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return [entry for entry in path.parent.iterdir() if name.fullmatch(entry.name)]
    return []


def is_at(descriptor: int, path: Path | str) -> bool:
    """Return whether a path names the open file itself, no link to it and no other file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of ``data`` where the descriptor stands."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


# Names


def give_name(descriptor: int, part: Path | str, final: Path | str, durable: bool = True) -> None:
    """Rename a temporary file, which its descriptor tells, to its final name, in place of what has that.

    The file gets the permissions of a new file first. Unless ``durable`` is false, its bytes are synced
    before and its folder after; else the caller does both.

    Raises:
        FileNotFoundError: the temporary name is another file's, or nobody's, and nothing was renamed.
        OSError: the file can't have the name.
    """
    os.fchmod(descriptor, 0o666 & ~umask())
    if durable:
        os.fsync(descriptor)
    if not is_at(descriptor, part):
        raise FileNotFoundError(errno.ENOENT, "its temporary file was removed or replaced meanwhile")
    os.rename(part, final)  # noqa: PTH104
    if durable:
        sync_folder(Path(final).parent)


def name_shared_part(descriptor: int, part: Path, final: Path) -> None:
    """Give a name to a temporary file whose own name other processes choose too.

    One of them may have removed or replaced the name at any moment. So the file gets a name that no other
    process chooses, by way of its descriptor; where it has no name left, it is copied.

    Raises:
        OSError: the file can't have the name.
    """
    private = temporary_name(final)
    try:
        if _link_descriptor(descriptor, private):
            give_name(descriptor, private, final)
            if is_at(descriptor, part):
                part.unlink(missing_ok=True)
        elif is_at(descriptor, part):  # the file system has no links
            give_name(descriptor, part, final)
        else:
            with new_file(final) as copy:
                copy_bytes(descriptor, copy)
    finally:
        with contextlib.suppress(OSError):
            private.unlink()


def _link_descriptor(descriptor: int, name: Path) -> bool:
    """Link an open file to a name; False where it has no name any more, or the system can't."""
    try:
        os.link(f"/proc/self/fd/{descriptor}", name, follow_symlinks=True)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    return is_at(descriptor, name)


def rename(part: Path, final: Path) -> None:
    """Give a durable file, link or folder another name, durably; for what no descriptor tells."""
    part.rename(final)
    sync_folder(final.parent)


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


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[int]:
    """Yield the descriptor of a temporary file, which gets the name ``path`` at the end, durably; after an
    error it is removed instead.

    Raises:
        OSError: the file can't be made, or can't have the name.
    """
    part = temporary_name(path)
    descriptor = create_private(part)
    try:
        with contextlib.suppress(OSError):  # shows others that a process works on it
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
        give_name(descriptor, part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    finally:
        os.close(descriptor)


def replace(path: Path, data: bytes) -> None:
    """Put ``data`` under ``path`` in one step.

    Raises:
        LocalDiskError: the disk is full, or may not be written.
    """
    with disk_errors("could not write", path), new_file(path) as descriptor:
        write_all(descriptor, data)


async def replace_soon(path: Path, data: bytes) -> None:
    """``replace`` without keeping the event loop waiting; when it is cancelled, it is done all the same."""
    await in_thread(replace, path, data)


def link(known: Path, name: Path) -> bool:
    """Give a file another name; False where the file system can't."""
    try:
        name.hardlink_to(known)
    except OSError:
        return False
    return True


def point(link: Path, target: str) -> None:
    """Have a symbolic link name ``target`` from one moment to the next.

    Raises:
        OSError: it can't be; FileExistsError when something else than a link has its name.
    """
    if link.exists() and not link.is_symlink():
        raise FileExistsError(errno.EEXIST, "it is there and is no symbolic link")
    part = temporary_name(link)
    part.symlink_to(target)
    try:
        rename(part, link)
    finally:
        part.unlink(missing_ok=True)


# Copies


def clone(original: Path, copy: Path) -> bool:
    """Copy a file so that both share their blocks until one is written to (FICLONE, ioctl_ficlonerange(2));
    False where the file system can't.

    Raises:
        OSError: the original can't be read, or something has the name of the copy.
    """
    with original.open("rb") as source:
        part = temporary_name(copy)
        target = create_private(part)
        try:
            try:
                fcntl.ioctl(target, _FICLONE, source.fileno())
            except OSError:
                return False
            os.fsync(target)
            give_name(target, part, copy, durable=False)
        finally:
            os.close(target)
            part.unlink(missing_ok=True)
    return True


def copy_bytes(source: int, target: int) -> None:
    """Copy a whole file into an empty one, sharing blocks where the file system can.

    Raises:
        OSError: the source can't be read, or the target can't be written.
    """
    with contextlib.suppress(OSError):
        fcntl.ioctl(target, _FICLONE, source)
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


# Durability


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


# Whose a file is


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
