"""The destination of a restore: names below open folders; links are never followed."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from blake3 import blake3

from shardcast.backup.attributes import name_of
from shardcast.file_locks import is_in_memory
from shardcast.file_systems import NO_LINKS
from shardcast.folders.tree_pool import TreePool
from shardcast.open_files import close

TEMPORARY = b".shardcast-restore-"
"""Prefix of the names of unfinished files; a later restore of the same path continues them."""
UNFINISHED = 0o1700
"""Mode of an unfinished folder: private, and marked by the sticky bit."""
_NOT_PLACED = frozenset(
    {
        errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.ELOOP,
        errno.EEXIST, errno.ENOTEMPTY, errno.EINVAL, errno.EILSEQ, errno.EFBIG, errno.ENOENT,
        errno.EOPNOTSUPP, errno.EMLINK, errno.ETXTBSY, errno.EXDEV,
    }
)  # fmt: skip


def concerns_one_entry(error: OSError) -> bool:
    """Return whether an error prevents one entry, and not all others too, as a full disk does."""
    return error.errno in _NOT_PLACED


def temporary_name(name: bytes) -> bytes:
    """Return the name of an unfinished entry, in the same folder."""
    return TEMPORARY + blake3(name).hexdigest(16).encode()


class RestorePlaces:
    """An open destination folder; threads may share it.

    Attributes:
        root: the descriptor of the folder.
    """

    def __init__(self, root: int) -> None:
        """Write below an open folder, whose descriptor the caller closes."""
        self.root = root
        self._trees = TreePool(root)

    def close(self) -> None:
        """Close all folders except the root."""
        self._trees.close()

    @contextmanager
    def folder_of(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the descriptor of a path's folder, and the name there.

        Raises:
            OSError: a folder on the way is a link, or missing.
        """
        with self._trees.tree() as tree:
            yield tree.parent(path)

    @contextmanager
    def opened(self, path: bytes) -> Iterator[int]:
        """Yield the descriptor of a folder; ``b""`` is the top.

        Raises:
            OSError: the folder is a link, or cannot be opened.
        """
        with self._trees.tree() as tree:
            yield tree.folder(path)

    def state(self, path: bytes) -> os.stat_result | None:
        """Return the state of a path, of a link itself; None for a name missing in its folder.

        Raises:
            OSError: a folder on the way is missing, a link, or cannot be opened.
        """
        with self.folder_of(path) as (folder, name):
            return state_of(folder, name)

    def make_folder(self, path: bytes) -> None:
        """Make a folder, marked as unfinished.

        Raises:
            OSError: the folder cannot be made.
        """
        with self.folder_of(path) as (folder, name):
            os.mkdir(name, 0o700, dir_fd=folder)
            descriptor = os.open(
                name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder
            )
            try:
                os.fchmod(descriptor, UNFINISHED)
            finally:
                close(descriptor)


def state_of(folder: int, name: bytes) -> os.stat_result | None:
    """Return the state of a name in an open folder; None where there is none."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def is_unfinished(found: os.stat_result) -> bool:
    """Return whether a folder was made by a restore and not finished."""
    return (
        stat.S_ISDIR(found.st_mode)
        and stat.S_IMODE(found.st_mode) == UNFINISHED
        and found.st_uid == os.geteuid()
    )


def open_temporary(folder: int, name: bytes, *, again: bool = False) -> int:
    """Open the temporary file of an entry for reading and writing, and return its descriptor.

    A link of this name, or another user's file, is never written to.

    Args:
        folder: the descriptor of the folder.
        name: of the entry.
        again: whether to continue an existing file; else the file is made anew.

    Raises:
        OSError: the file cannot be made.
    """
    temporary = temporary_name(name)
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    if again and is_own(state_of(folder, temporary)):
        descriptor = os.open(temporary, flags, dir_fd=folder)
        if is_own(os.fstat(descriptor)):
            return descriptor
        close(descriptor)
    try:
        return os.open(temporary, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
    except FileExistsError:
        os.unlink(temporary, dir_fd=folder)
        return os.open(temporary, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)


def is_own(found: os.stat_result | None) -> bool:
    """Return whether a file is regular, this user's alone, and has no other name."""
    return (
        found is not None
        and stat.S_ISREG(found.st_mode)
        and (found.st_uid, found.st_nlink) == (os.geteuid(), 1)
        and not found.st_mode & 0o077
    )


def give_name(folder: int, name: bytes, *, replaces: bool) -> None:
    """Rename an entry from its temporary name to its own.

    Args:
        folder: the descriptor of the folder.
        name: of the entry.
        replaces: whether to replace an entry of this name.

    Raises:
        FileExistsError: the name is taken.
        OSError: the entry cannot be renamed.
    """
    temporary = temporary_name(name)
    if not replaces:
        try:
            os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            os.unlink(temporary, dir_fd=folder)
            return
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
        if state_of(folder, name) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
    os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)


def remove_temporary(folder: int, name: bytes) -> None:
    """Remove the temporary file of an entry, if any.

    Raises:
        OSError: the file cannot be removed.
    """
    try:
        os.unlink(temporary_name(name), dir_fd=folder)
    except FileNotFoundError:
        pass


def open_to_compare(folder: int, name: bytes) -> int:
    """Open a regular file for reading, and return the descriptor.

    If the mode of this user's file forbids reading, the mode is changed for a moment.

    Raises:
        OSError: the name is no regular file, or the file cannot be read.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=folder)
    except PermissionError:
        descriptor = _open_unreadable(folder, name)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        close(descriptor)
        raise OSError(errno.EINVAL, "no regular file", name)
    return descriptor


def _open_unreadable(folder: int, name: bytes) -> int:
    """Open this user's file without read permission for its owner: the permission is set meanwhile."""
    known = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        found = os.fstat(known)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        os.chmod(name_of(known), stat.S_IMODE(found.st_mode) | stat.S_IRUSR)
        try:
            return os.open(name_of(known), os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.chmod(name_of(known), stat.S_IMODE(found.st_mode))
    finally:
        close(known)


def sync_file_system(descriptor: int) -> None:
    """Make all writes to the file system of an open folder durable, except on a file system in memory.

    One call rather than one for each file: on a disk 200 000 of them take minutes.

    Raises:
        OSError: the disk failed.
    """
    if is_in_memory(descriptor):
        return
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "syncfs"):
        os.sync()
    elif library.syncfs(descriptor):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
