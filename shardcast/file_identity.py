"""The identity of a file: shows whether the file was replaced or written to since an earlier ``stat``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple, Self

WORD = (1 << 64) - 1
"""Mask of the 64 bits that a packed record or a column has for a time in nanoseconds.

A file may have a time beyond a signed number of 64 bits: year 2263 and later. Masked times are compared
alone, never converted back to a date.
"""


class FileIdentity(NamedTuple):
    """The fields of ``stat`` that change when a file is replaced or written to.

    Two identities from ``stat`` are equal while the file is untouched. Records on the disk keep inode, size
    and mtime alone (``recorded``, ``text``): a device's number changes with the order of mounts, and ctime
    with every link and permission.

    Attributes:
        inode: number of the inode.
        size: bytes.
        mtime_ns: time of the last write, in nanoseconds since 1970.
        device: number of the device; None in a recorded identity.
        ctime_ns: time of the last change of the inode, likewise; None in a recorded identity.
    """

    inode: int
    size: int
    mtime_ns: int
    device: int | None = None
    ctime_ns: int | None = None

    @classmethod
    def from_stat(cls, found: os.stat_result) -> Self:
        """Return the identity of a file, given its ``stat``."""
        return cls(found.st_ino, found.st_size, found.st_mtime_ns, found.st_dev, found.st_ctime_ns)

    @staticmethod
    def words(found: os.stat_result) -> tuple[int, int, int, int, int]:
        """Return the fields of an identity from ``stat``, each as a number of 64 bits."""
        return (
            found.st_ino & WORD,
            found.st_size,
            found.st_mtime_ns & WORD,
            found.st_dev,
            found.st_ctime_ns & WORD,
        )

    @classmethod
    def at(cls, path: Path) -> Self | None:
        """Return the identity of the file at the end of a path's links; None where ``stat`` fails."""
        try:
            return cls.from_stat(path.stat())
        except OSError:
            return None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the identity written by ``text``; None for malformed text."""
        try:
            inode, size, mtime_ns = text.split(" ")
            return cls(int(inode), int(size), int(mtime_ns))
        except ValueError:
            return None

    @property
    def text(self) -> str:
        """The form of records on the disk: ``<inode> <size> <mtime in ns>``."""
        return f"{self.inode} {self.size} {self.mtime_ns}"

    @property
    def recorded(self) -> Self:
        """The identity without the fields missing in records, to compare with a recorded one."""
        return self._replace(device=None, ctime_ns=None)

    @property
    def file_key(self) -> tuple[int | None, int]:
        """Device and inode: common to all names of a file, and different for any other file at that time."""
        return self.device, self.inode

    def same_content(self, other: FileIdentity) -> bool:
        """Return whether this is the same file without a write since; permissions may differ."""
        return self.file_key == other.file_key and self[1:3] == other[1:3]
