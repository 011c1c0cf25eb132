"""The folder that a restore writes to: names below open folders, none of which is ever a followed link."""

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
"""How the names of files begin that are not restored whole; a later restore of a path goes on in them."""
UNFINISHED = 0o1700
"""Mode of a folder until all in it is restored: private, and told from other folders by its sticky bit."""
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
    """Return the name under which an entry is restored, in the same folder, until it is whole."""
    return TEMPORARY + blake3(name).hexdigest(16).encode()


class RestorePlaces:
    """An open folder to restore to; threads may share it.

    Attributes:
        root: the descriptor of the folder.
    """

    def __init__(self, root: int) -> None:
        """Write below an open folder, whose descriptor the caller closes."""
        self.root = root
        self._trees = TreePool(root)

    def close(self) -> None:
        """Close all folders but the one that was given."""
        self._trees.close()

    @contextmanager
    def folder_of(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the descriptor of the folder that a path lies in, and the name there.

        Raises:
            OSError: a folder on the way is a link, or not there.
        """
        with self._trees.tree() as tree:
            yield tree.parent(path)

    @contextmanager
    def opened(self, path: bytes) -> Iterator[int]:
        """Yield the descriptor of a folder; ``b""`` is the top.

        Raises:
            OSError: it is a link, or can't be opened.
        """
        with self._trees.tree() as tree:
            yield tree.folder(path)

    def state(self, path: bytes) -> os.stat_result | None:
        """Return the state of what has a path, of a link its own; None where nothing has.

        Raises:
            OSError: a folder on the way is a link, or can't be opened.
        """
        with self.folder_of(path) as (folder, name):
            return state_of(folder, name)

    def make_folder(self, path: bytes) -> None:
        """Make a folder that is not finished.

        Raises:
            OSError: it can't be made.
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
    """Return whether a folder is one that a restore made and did not finish."""
    return (
        stat.S_ISDIR(found.st_mode)
        and stat.S_IMODE(found.st_mode) == UNFINISHED
        and found.st_uid == os.geteuid()
    )


def open_temporary(folder: int, name: bytes, *, again: bool = False) -> int:
    """Open the temporary file of an entry for reading and writing, and return its descriptor.

    A file that another user, or a link, put there is never written to.

    Args:
        folder: the descriptor of the folder.
        name: of the entry.
        again: whether a file that is there goes on to be filled; else it is made anew.

    Raises:
        OSError: it can't be made.
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
    """Give what has the temporary name of an entry the entry's own.

    Args:
        folder: the descriptor of the folder.
        name: of the entry.
        replaces: whether what has the name is replaced.

    Raises:
        FileExistsError: something has the name.
        OSError: it can't have the name.
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
    """Remove the temporary file of an entry, if there is one.

    Raises:
        OSError: it can't be removed.
    """
    try:
        os.unlink(temporary_name(name), dir_fd=folder)
    except FileNotFoundError:
        pass


def open_to_compare(folder: int, name: bytes) -> int:
    """Open a regular file for reading, whatever its mode lets its owner do, and return its descriptor.

    Raises:
        OSError: it is no regular file, or can't be read.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=folder)
    except PermissionError:
        descriptor = _open_unreadable(folder, name)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        close(descriptor)
        raise OSError(errno.EINVAL, "it is no file", name)
    return descriptor


def _open_unreadable(folder: int, name: bytes) -> int:
    """Open a file of this user whose mode does not let its owner read it."""
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
    """Make all that was written to the file system of an open folder durable; in memory nothing is.

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
