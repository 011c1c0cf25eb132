"""The Unix socket and the named pipes of a data directory, impossible on some file systems.

::

    .shardcast/socket       the socket
    .shardcast/socket-at    its place otherwise: in a folder of this machine, closed to other users
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from shardcast.errors import LocalDiskError
from shardcast.file_systems import NO_SPECIAL_FILES, log_lack
from shardcast.filesystem import replace
from shardcast.store.data_dir_layout import own_folder

_LONGEST_SOCKET_NAME = 100
"""Bytes; Linux takes 107, macOS 103."""
_PREFIX = "shardcast-"
"""Beginning of the names of folders for sockets and pipes elsewhere."""


def socket_path(root: Path) -> Path:
    """Return the path of a data directory's socket, possibly in another folder of this machine."""
    own = own_folder(root.absolute())
    return _elsewhere(own) or own / "socket"


@contextlib.contextmanager
def short_socket_path(path: Path) -> Iterator[str]:
    """Make a path of a socket short enough to bind and connect, through a link in ``/tmp`` if need be.

    Yields:
        The short path, removed after the block.

    Raises:
        LocalDiskError: no path is short enough.
    """
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_NAME:
        yield str(path)
        return
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir="/tmp") as short:
        link = Path(short) / "d"
        link.symlink_to(path.parent, target_is_directory=True)
        if len(os.fsencode(link)) > _LONGEST_SOCKET_NAME:
            raise LocalDiskError(f"no name for a socket in {path.parent} is short enough")
        yield str(link / path.name)


def make_local_folder(folder: Path, error: OSError) -> tempfile.TemporaryDirectory[str]:
    """Make a folder of this machine, closed to other users, for a socket or a pipe.

    Args:
        folder: the impossible place of the socket or pipe.
        error: the error there.

    Returns:
        The folder; its clean-up removes it.

    Raises:
        OSError: the ``error``, unless the file system has no such files.
    """
    if error.errno not in NO_SPECIAL_FILES:
        raise error
    log_lack(folder / ".", "has no sockets and pipes: they are in a folder of this machine's own")
    return tempfile.TemporaryDirectory(prefix=_PREFIX)


@contextlib.contextmanager
def record_socket_path(root: Path, socket: Path) -> Iterator[None]:
    """Record the path of a socket outside its data directory, while the block runs.

    Raises:
        LocalDiskError: the record can't be written.
    """
    own = own_folder(root.absolute())
    replace(_record(own), os.fsencode(socket) + b"\n")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the next node replaces the record
            if _elsewhere(own) == socket:
                _record(own).unlink()


def clear_sockets(root: Path) -> None:
    """Remove the socket of an ended node, also elsewhere.

    Raises:
        OSError: the socket can't be removed.
    """
    own = own_folder(root.absolute())
    left = _elsewhere(own)
    if left is not None:
        with contextlib.suppress(OSError):  # what stays is litter in /tmp, and harms nothing
            left.unlink(missing_ok=True)
            left.parent.rmdir()
    _record(own).unlink(missing_ok=True)
    (own / "socket").unlink(missing_ok=True)


def _record(own: Path) -> Path:
    """Return the file with the path of a socket elsewhere."""
    return own / "socket-at"


def _elsewhere(own: Path) -> Path | None:
    """Return the path of a socket outside the data directory; None without a trusted record.

    The socket's folder must belong to this user or to the directory's owner and be closed to all others: a
    third user could have made any other folder there.
    """
    try:
        path = Path(os.fsdecode(_record(own).read_bytes().rstrip(b"\n")))
        found, owner = path.parent.lstat(), own.stat().st_uid
    except OSError:
        return None
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid in (os.geteuid(), owner)
    private = stat.S_IMODE(found.st_mode) == stat.S_IRWXU and path.parent.name.startswith(_PREFIX)
    return path if ours and private and path.is_absolute() else None
