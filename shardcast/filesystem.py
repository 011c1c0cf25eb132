"""Temporary files, and how they get their names: a name appears only when its bytes are on the disk.

There is one way of making a temporary file (``create_private``: new, no link followed, closed to other users)
and one way of giving a name (``give_name``: the file that was written is the one that gets the name).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from shardcast.concurrency import in_thread
from shardcast.errors import LocalDiskError, LocalLimit, ShardcastError
from shardcast.file_copies import copy_bytes
from shardcast.file_locks import try_lock
from shardcast.file_owners import share_file, share_like, umask
from shardcast.file_systems import NO_SPECIAL_FILES, set_permissions, sync_open_folder

PART = ".part"
"""The end of every temporary name."""
MAX_STEM = 230
"""Bytes of a file's name that its temporary name repeats; the rest of the 255 is for what it adds."""

_PRIVATE = 0o600
_TOKEN = 16
"""Hex digits that make a temporary name one that no other process has."""
_STEM_DIGEST = 8
"""Hex digits of a long name's SHA-256 in its temporary names."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
NO_LINKS = (
    errno.EPERM,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EMLINK,
    errno.EACCES,
    errno.EXDEV,
    errno.ELOOP,
)
"""Errors that say that a file can't have a second name."""
NOT_OURS = (
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.ENXIO,
    errno.EISDIR,
    errno.ENODEV,
    errno.ETXTBSY,
)
"""Errors that say that what has a temporary file's name is another user's, a link, a device or a folder."""
_NO_SYNC = (errno.EACCES, errno.EPERM, errno.EROFS)
"""What is said where a folder may only be passed through."""


@contextlib.contextmanager
def disk_errors(doing: str, path: Path | str) -> Iterator[None]:
    """Turn the system's errors into ``LocalDiskError``, which says what was done to which file."""
    try:
        yield
    except ShardcastError:
        raise
    except OSError as error:
        limit = LocalLimit.of(error)
        if limit:
            limit.args = (f"{doing} {path}: {limit}",)
            raise limit from error
        hint = "; free some space and try again, what is here is kept" if error.errno in _FULL else ""
        failure = LocalDiskError(f"{doing} {path}: {error.strerror or error}{hint}")
        failure.errno = error.errno
        raise failure from error


def in_words(error: OSError) -> str:
    """Return what an error of the system says, and of which file, without its number."""
    if isinstance(error, ShardcastError) or not error.strerror:
        return str(error)
    return f"could not use {error.filename}: {error.strerror}" if error.filename else error.strerror


def is_full(error: BaseException) -> bool:
    """Whether an error says that the disk is full."""
    return any(isinstance(one, OSError) and one.errno in _FULL for one in (error, error.__cause__))


# Temporary files


def create_private(path: Path | str) -> int:
    """Create a file that only this user can read and write; return its descriptor, open for both.

    Raises:
        FileExistsError: something has the name, be it a link that leads nowhere.
        OSError: the file can't be made.
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _PRIVATE)


def temporary_name(path: Path) -> Path:
    """Return a name beside ``path`` that no other process chooses: ``.<name>~<16 hex digits>.part``."""
    return path.with_name(f".{stem_of(path.name).removeprefix('.')}~{secrets.token_hex(_TOKEN // 2)}{PART}")


def stem_of(name: str, limit: int = MAX_STEM) -> str:
    """Return what temporary names repeat of a file's name: the name itself, or where that is over ``limit``
    bytes its beginning with a digest of the whole."""
    encoded = os.fsencode(name)
    if len(encoded) <= limit:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:_STEM_DIGEST]
    begin = encoded[: limit - _STEM_DIGEST - 1]
    try:
        encoded.decode()
    except UnicodeDecodeError:
        return f"{os.fsdecode(begin)}~{digest}"
    return f"{begin.decode(errors='ignore')}~{digest}"  # some file systems take whole characters only


def is_temporary_of(name: str, final: str) -> bool:
    """Return whether a file's name is one that ``temporary_name`` gives for the final name."""
    stem = re.escape(stem_of(final).removeprefix("."))
    return re.fullmatch(rf"\.{stem}~[0-9a-f]{{{_TOKEN}}}{re.escape(PART)}", name) is not None


def leftovers(path: Path) -> list[Path]:
    """Return the temporary files of ``path`` that killed processes left, or that others are just writing;
    none where the folder can't be listed."""
    with contextlib.suppress(OSError):
        return [entry for entry in path.parent.iterdir() if is_temporary_of(entry.name, path.name)]
    return []


def clear_leftovers(path: Path) -> None:
    """Remove the temporary files of ``path`` that killed processes left, once nobody else writes any.

    Raises:
        OSError: one can't be removed.
    """
    for part in leftovers(path):
        part.unlink(missing_ok=True)


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


def close(descriptor: int) -> None:
    """Close a descriptor, whatever the system says of it.

    It is closed in any case (close(2)), so that a second try would close another file that has its number by
    then; and what was to be durable was synced before.
    """
    with contextlib.suppress(OSError):
        os.close(descriptor)


def is_at(descriptor: int, path: Path | str) -> bool:
    """Return whether a path names the open file itself, no link to it and no other file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def remove_tree(path: Path | str) -> bool:
    """Remove a folder and all in it, as far as that can be; return whether nothing is left."""
    with contextlib.suppress(OSError):  # before Python 3.12 some errors come although they are to be ignored
        shutil.rmtree(path, ignore_errors=True)
    try:
        os.lstat(path)
    except FileNotFoundError:
        return True
    except OSError:  # nobody knows
        return False
    return False


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of ``data`` where the descriptor stands."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


# Names


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
        _copy_across(descriptor, Path(final))
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


def rename(known: Path, name: Path, durable: bool = True, copy: bool = True) -> None:
    """Give a durable link or folder, or a file that has a name already, another one.

    Unless ``durable`` is false, the folder of the new name is synced after; else the caller does it. Where it
    can't be renamed, it is copied, unless ``copy`` is false.

    Raises:
        OSError: it can't have the name; with ``EXDEV`` where it could be copied, and is not to be.
    """
    try:
        known.rename(name)
    except OSError as error:
        if error.errno != errno.EXDEV or not copy:
            raise
        _move_across(known, name)
    if durable:
        sync_folder(name.parent)


def _copy_across(descriptor: int, final: Path) -> None:
    """Give a name on another disk to a copy of an open file, durably but for the name."""
    found = os.fstat(descriptor)
    part = temporary_name(final)
    copy = create_private(part)
    try:
        copy_bytes(descriptor, copy)
        set_permissions(copy, stat.S_IMODE(found.st_mode), part)
        os.utime(copy, ns=(found.st_atime_ns, found.st_mtime_ns))
        os.fsync(copy)
        part.rename(final)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    finally:
        close(copy)


def _move_across(known: Path, name: Path) -> None:
    """Move a file to another disk, or a folder that its file system can't rename (an overlay's, of an image).

    A folder is emptied into one with a temporary name, which a second try goes on with after a kill; a
    symbolic link is made anew.
    """
    if known.is_symlink():
        part = temporary_name(name)
        part.symlink_to(os.readlink(known))  # noqa: PTH115
        part.rename(name)
        known.unlink()
        return
    if not stat.S_ISDIR(known.lstat().st_mode):
        taken = temporary_name(known)  # so that what gets the old name meanwhile stays
        known.rename(taken)
        with taken.open("rb") as file:
            _copy_across(file.fileno(), name)
        taken.unlink()
        return
    found, moving = known.stat(), name.with_name(f".{stem_of(name.name)}~moving{PART}")
    new_folder(moving, exist_ok=True)
    for entry in list(known.iterdir()):
        rename(entry, moving / entry.name, durable=False)
    os.utime(moving, ns=(found.st_atime_ns, found.st_mtime_ns))
    sync_folder(moving)
    moving.rename(name)
    known.rmdir()


def rename_free(known: Path, name: Path) -> bool:
    """Give a file another name, durably, unless something has that; return whether nothing had.

    Raises:
        OSError: the file can't have the name.
    """
    try:
        os.link(known, name, follow_symlinks=False)  # a rename would replace what came meanwhile
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if os.path.lexists(name):
            return False
        rename(known, name)
        return True
    sync_folder(name.parent)  # before the other name goes, so that a power cut leaves one of them
    known.unlink(missing_ok=True)
    return True


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


# Durability


def sync_folder(folder: Path) -> None:
    """Make names that appeared in a folder durable, where its file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        sync_open_folder(descriptor, folder)
    finally:
        close(descriptor)


def sync_file(file: Path) -> None:
    """Make a file's bytes durable."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        close(descriptor)


def new_folder(folder: Path, exist_ok: bool = False) -> None:
    """Make a folder, which the group may write that may write the folder it is in, where that is setgid.

    Raises:
        OSError: it can't be made; FileExistsError, unless ``exist_ok``, when it is there.
    """
    try:
        folder.mkdir()
    except FileExistsError:
        if not exist_ok or not folder.is_dir():
            raise
    else:
        share_like(folder)


def new_folders(folder: Path) -> list[Path]:
    """Make a folder and those above it that are missing, and return those that were."""
    missing = [one for one in (folder, *folder.parents) if not one.is_dir()]
    for one in reversed(missing):
        new_folder(one, exist_ok=True)
    return missing


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, durably.

    The name of ``folder`` itself is synced in any case: another process may have made it, and been killed
    before it came to that.

    Raises:
        OSError: a folder can't be made.
    """
    for one in dict.fromkeys((*new_folders(folder), folder)):
        sync_name(one)


def sync_name(folder: Path) -> None:
    """Make the name of a folder durable, where that can be."""
    try:
        sync_folder(folder.parent)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
