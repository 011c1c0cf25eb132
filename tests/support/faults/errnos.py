"""Errors that each file-system call gives on real systems: local disks, quotas, NFS, FUSE, full tables.

The names of calls are those that the shim reports: several calls of libc that do the same have one name.
"""

from __future__ import annotations

import errno

from tests.support.faults.control import SHORT

_DISK = ("EIO", "ESTALE")
_FULL = ("ENOSPC", "EDQUOT")
_REFUSED = ("EACCES", "EPERM", "EROFS")
_TABLES = ("EMFILE", "ENFILE", "ENOMEM")

ERRNOS: dict[str, tuple[str, ...]] = {
    "access": ("EIO", "EACCES"),
    "bind": ("EACCES", "EROFS", "ENOSPC", "EIO", "EOPNOTSUPP"),
    "chmod": ("EPERM", "EROFS", "EIO", "EOPNOTSUPP"),
    "clone": ("EOPNOTSUPP", "EXDEV", "EINVAL", "ENOTTY", "EPERM", "ENOSPC", "EIO"),
    "close": ("EIO", "ENOSPC", "EDQUOT"),
    "copy_file_range": ("EXDEV", "EOPNOTSUPP", "EINVAL", "ENOSPC", "EIO", "SHORT"),
    "create": (*_FULL, *_DISK, *_REFUSED, *_TABLES, "EINTR", "ENAMETOOLONG", "ELOOP"),
    "fallocate": (*_FULL, "EIO", "EOPNOTSUPP", "EINVAL", "EFBIG", "EINTR"),
    "fstat": _DISK,
    "fsync": (*_FULL, "EIO", "EROFS", "EINVAL", "EINTR"),
    "link": ("EPERM", "EOPNOTSUPP", "EXDEV", "EMLINK", "EACCES", "EROFS", *_FULL, *_DISK),
    "lock": ("ENOLCK", "EIO", "EINTR", "EOPNOTSUPP"),
    "mkdir": (*_FULL, *_DISK, "EACCES", "EROFS", "EMLINK", "ENAMETOOLONG"),
    "mkfifo": (*_FULL, "EIO", "EROFS", "EPERM", "EOPNOTSUPP"),
    "open": (*_DISK, "EACCES", *_TABLES, "EINTR"),
    "open-write": (*_DISK, *_REFUSED, *_TABLES, "EINTR"),
    "opendir": (*_DISK, "EACCES", *_TABLES),
    "read": (*_DISK, "EINTR", "SHORT"),
    "readdir": _DISK,
    "readlink": ("EIO", "EACCES"),
    "rename": (*_FULL, *_DISK, *_REFUSED, "EXDEV", "ENOMEM"),
    "rmdir": ("EIO", "EACCES", "EROFS", "EBUSY", "ENOTEMPTY"),
    "seek": ("EINVAL", "EIO"),
    "sendfile": ("EIO", "ENOMEM", "EINVAL", "SHORT"),
    "stat": (*_DISK, "EACCES", "ENOMEM"),
    "statfs": ("EIO", "ENOSYS", "EACCES", "ESTALE"),
    "symlink": (*_FULL, "EIO", *_REFUSED, "EOPNOTSUPP"),
    "truncate": ("EIO", "ENOSPC", "EDQUOT", "EFBIG", "EPERM", "EINTR"),
    "unlink": (*_DISK, *_REFUSED, "EBUSY"),
    "utime": ("EPERM", "EACCES", "EROFS", "EIO"),
    "write": (*_FULL, *_DISK, "EFBIG", "EPERM", "EINTR", "SHORT"),
}

_FILES: frozenset[str] = frozenset(
    {"access", "chmod", "close", "create", "fstat", "fsync", "link", "lock", "mkdir", "open", "open-write"}
    | {"opendir", "read", "readdir", "rename", "rmdir", "stat", "statfs", "truncate", "unlink", "write"}
)
CALLS: dict[str, frozenset[str]] = {
    "origin": _FILES | {"bind", "clone", "mkfifo", "sendfile"},
    "client": _FILES | {"copy_file_range", "readlink", "seek", "symlink"},
    "middle": _FILES | {"bind", "fallocate", "seek", "sendfile"},
    "store": _FILES | {"sendfile", "utime"},
}
"""The calls that each role makes. One that is not here fails the matrix: say first what it may give."""

HARMLESS = frozenset({"EINTR", "SHORT"})
"""Those that a caller goes on after, so that the outcome is right."""


def number(name: str) -> int:
    """Return the errno of a name, or ``SHORT``."""
    return SHORT if name == "SHORT" else int(getattr(errno, name))
