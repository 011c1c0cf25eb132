"""Files that get their names: a name appears only when its bytes are on the disk.

There is one way of giving a name (``give_name``: the file that was written is the one that gets the name).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from shardcast.concurrency import in_thread
from shardcast.disk_errors import disk_errors
from shardcast.file_locks import try_lock
from shardcast.file_moves import copy_across, rename, rename_free
from shardcast.file_owners import share_file, umask
from shardcast.file_systems import NO_SPECIAL_FILES, set_permissions
from shardcast.folders import sync_folder
from shardcast.open_files import close, is_at, write_all
from shardcast.temporary_files import create_private, temporary_name


def give_name(
    descriptor: int, part: Path | str, final: Path | str, durable: bool = True, mode: int | None = None
) -> None:
    """Rename a temporary file, which its descriptor tells, to its final name, in place of what has that.

    The file gets the permissions ``mode`` first, by default those of a new file. Unless ``durable`` is false,
    its bytes are synced before and its folder after; else the caller does both.

    Raises:
        FileNotFoundError: the temporary name is another file's, or nobody's, and nothing was renamed.
        OSError: the file can't have the name.
    """
    _open_up(descriptor, part, durable, mode)
    try:
        os.rename(part, final)  # noqa: PTH104
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy_across(descriptor, Path(final))
        Path(part).unlink(missing_ok=True)
    if durable:
        sync_folder(Path(final).parent)


def give_free_name(descriptor: int, part: Path, final: Path, mode: int | None = None) -> bool:
    """``give_name`` where nothing has the final name; return whether nothing had.

    Raises:
        OSError: the file can't have the name.
    """
    _open_up(descriptor, part, True, mode)
    return rename_free(part, final)


def _open_up(descriptor: int, part: Path | str, durable: bool, mode: int | None) -> None:
    """Have a temporary file ready for its name."""
    set_permissions(descriptor, 0o666 & ~umask() if mode is None else mode, part)
    if durable:
        os.fsync(descriptor)
    if not is_at(descriptor, part):
        raise FileNotFoundError(errno.ENOENT, "its temporary file was removed or replaced meanwhile")


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
        try_lock(descriptor)  # shows others that a process works on it
        yield descriptor
        give_name(descriptor, part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    finally:
        close(descriptor)


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


def append(path: Path, data: bytes) -> None:
    """Write bytes at the end of a file, which is made if it isn't there.

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


def can_point(link: Path) -> bool:
    """Return whether the file system where a symbolic link is to be has such links; it is tried beside it.

    Raises:
        OSError: nothing can be made there.
    """
    probe = temporary_name(link)
    try:
        probe.symlink_to("nowhere")
    except OSError as error:
        if error.errno not in NO_SPECIAL_FILES:
            raise
        return False
    probe.unlink(missing_ok=True)  # another process may be tidying
    return True
