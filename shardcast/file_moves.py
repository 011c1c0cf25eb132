"""Renames of existing files and folders, also across disks."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from pathlib import Path

from shardcast.directories import new_folder, sync_folder
from shardcast.file_copies import copy_bytes
from shardcast.file_systems import NO_LINKS, set_permissions
from shardcast.open_files import close
from shardcast.temporary_files import PART, create_private, stem_of, temporary_name

_AT_FDCWD = -100
_EXCHANGE = 2
"""The flag ``RENAME_EXCHANGE`` of renameat2(2), missing in the standard library."""


def rename(known: Path, name: Path, durable: bool = True, copy: bool = True) -> None:
    """Rename a file, a folder or a link that is durable under the old name.

    Args:
        known: the old name.
        name: the new name; an entry of this name is replaced.
        durable: whether to sync the folder of the new name afterwards; else the caller does so.
        copy: whether to copy an entry that cannot be renamed, for example to another disk.

    Raises:
        OSError: the rename failed; with ``EXDEV`` if only a copy would do, and ``copy`` is false.
    """
    try:
        known.rename(name)
    except OSError as error:
        if error.errno != errno.EXDEV or not copy:
            raise
        _move_across(known, name)
    if durable:
        sync_folder(name.parent)


def exchange(first: Path, second: Path) -> bool:
    """Have two names change places in one step; return False on any failure, such as no support for it."""
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):  # no Linux, or an old C library
        return False
    here = ctypes.c_int(_AT_FDCWD)
    names = [ctypes.c_char_p(os.fsencode(name)) for name in (first, second)]
    return bool(library.renameat2(here, names[0], here, names[1], ctypes.c_uint(_EXCHANGE)) == 0)


def rename_if_free(known: Path, name: Path) -> bool:
    """Give a file another name, durably, unless something has the name; return whether the name was free.

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


def copy_across(descriptor: int, final: Path) -> None:
    """Give a name on another disk to a copy of an open file.

    The copy's bytes are durable; the caller syncs the folder.

    Raises:
        OSError: the copy can't be made.
    """
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
    """Move a file to another disk, or a folder that cannot be renamed (an overlay's, of an image).

    A symbolic link is made anew. A folder's entries move into a folder with a temporary name; after a kill a
    second call goes on there.
    """
    if known.is_symlink():
        part = temporary_name(name)
        part.symlink_to(os.readlink(known))  # noqa: PTH115
        part.rename(name)
        known.unlink()
        return
    if not stat.S_ISDIR(known.lstat().st_mode):
        taken = temporary_name(known)  # a file that gets the old name meanwhile stays
        known.rename(taken)
        with taken.open("rb") as file:
            copy_across(file.fileno(), name)
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
