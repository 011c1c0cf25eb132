"""Atomic files: a name appears only after the bytes are on the disk.

Write to a temporary name, fsync the file, rename it, fsync the folder. Every temporary file gets its name
through ``give_name``, so exactly the written file gets the name.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from shardcast.concurrency import in_thread
from shardcast.directories import sync_folder
from shardcast.disk_errors import disk_errors
from shardcast.file_locks import try_lock
from shardcast.file_moves import copy_across, rename, rename_if_free
from shardcast.file_owners import share_file, umask
from shardcast.file_systems import NO_SPECIAL_FILES, set_permissions
from shardcast.open_files import close, is_at, write_all
from shardcast.temporary_files import create_private, temporary_name


def give_name(
    descriptor: int,
    part: Path | str,
    final: Path | str,
    durable: bool = True,
    *,
    mode: int | None = None,
) -> None:
    """Rename an open temporary file to its final name, replacing any file of this name.

    Args:
        descriptor: the open file.
        part: the temporary name.
        final: the final name; on another disk, of a copy.
        durable: whether to sync the bytes before and the folder after; else the caller does both.
        mode: permissions of the file; None for those of any new file.

    Raises:
        FileNotFoundError: the temporary name is missing or another file's; nothing was renamed.
        OSError: the file cannot be renamed.
    """
    _prepare(descriptor, part, durable, mode)
    try:
        os.rename(part, final)  # noqa: PTH104
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy_across(descriptor, Path(final))
        Path(part).unlink(missing_ok=True)
    if durable:
        sync_folder(Path(final).parent)


def give_name_if_free(descriptor: int, part: Path, final: Path, mode: int | None = None) -> bool:
    """Rename an open temporary file durably, unless the final name is taken; return whether it was free.

    Raises:
        OSError: the file cannot be renamed.
    """
    _prepare(descriptor, part, True, mode)
    return rename_if_free(part, final)


def _prepare(descriptor: int, part: Path | str, durable: bool, mode: int | None) -> None:
    """Set the permissions of a temporary file, sync it, and check that its name is still its own.

    Raises:
        FileNotFoundError: the name is gone, or another file's.
        OSError: the disk failed.
    """
    set_permissions(descriptor, 0o666 & ~umask() if mode is None else mode, part)
    if durable:
        os.fsync(descriptor)
    if not is_at(descriptor, part):
        raise FileNotFoundError(errno.ENOENT, "its temporary file was removed or replaced meanwhile")


@contextlib.contextmanager
def atomic_file(path: Path, mode: int | None = None) -> Iterator[int]:
    """Make a temporary file, and name it ``path`` at the end, durably; after an error it is removed.

    Args:
        path: the final name.
        mode: permissions of the file; None for those of any new file.

    Yields:
        The file's descriptor.

    Raises:
        OSError: the file cannot be made or renamed.
    """
    part = temporary_name(path)
    descriptor = create_private(part)
    try:
        try_lock(descriptor)  # shows other processes that this file is being written
        yield descriptor
        give_name(descriptor, part, path, mode=mode)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    finally:
        close(descriptor)


def replace(path: Path, data: bytes, mode: int | None = None) -> None:
    """Replace the content of ``path`` by ``data`` in one step, durably.

    Args:
        path: the file.
        data: the new content.
        mode: permissions of the file; None for those of any new file.

    Raises:
        LocalDiskError: the disk is full, or may not be written.
    """
    replace_by_parts(path, (data,), mode)


def replace_by_parts(path: Path, parts: Iterable[bytes | memoryview], mode: int | None = None) -> None:
    """Replace the content of ``path`` as ``replace`` does, by parts, to save memory.

    Raises:
        LocalDiskError: the disk is full, or may not be written.
    """
    with disk_errors("could not write", path), atomic_file(path, mode) as descriptor:
        for part in parts:
            write_all(descriptor, part)


async def replace_in_thread(path: Path, data: bytes) -> None:
    """Replace a file's content as ``replace`` does, in a thread, to the end even if the caller is cancelled.

    Raises:
        LocalDiskError: the disk is full, or may not be written.
    """
    await in_thread(replace, path, data)


def append(path: Path, data: bytes) -> None:
    """Write bytes at the end of a file, and make the file if there is none.

    Raises:
        OSError: they can't be written, or a link has the name.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    try:
        share_file(descriptor, path)
        write_all(descriptor, data)
    finally:
        os.close(descriptor)


def set_symlink(link: Path, target: str) -> None:
    """Set a symbolic link to ``target`` in one step, durably.

    Raises:
        FileExistsError: the name is taken by another kind of entry.
        OSError: the link cannot be made.
    """
    if link.exists() and not link.is_symlink():
        raise FileExistsError(errno.EEXIST, "the name is taken, and not by a symbolic link")
    part = temporary_name(link)
    part.symlink_to(target)
    try:
        rename(part, link)
    finally:
        part.unlink(missing_ok=True)


def has_symlinks(link: Path) -> bool:
    """Return whether a symbolic link can be made at a path, by making one beside it.

    Raises:
        OSError: no entry can be made there, for another reason than the kind of file system.
    """
    probe = temporary_name(link)
    try:
        probe.symlink_to("nowhere")
    except OSError as error:
        if error.errno not in NO_SPECIAL_FILES:
            raise
        return False
    probe.unlink(missing_ok=True)  # another process may remove leftovers now
    return True
