"""Errors of the system about a blob's file, sorted into faults of the file and troubles of this machine.

A file unreadable by its own fault counts as corrupt: the blob is searched elsewhere, and a put repairs the
file. Any other error (no descriptors or memory left, an unreadable folder) proves nothing about the blob, and
is never reported as its absence.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from shardcast.disk_errors import disk_errors
from shardcast.errors import BlobCorrupt, BlobMissing, LocalDiskError

_DENIED = (errno.EACCES, errno.EPERM)
"""Errors of the file itself, unless its folder denies the access."""
_NAMES = ("EIO", "EUCLEAN", "EBADMSG", "ESTALE", "ENXIO", "ENODEV", "EISDIR", "EOVERFLOW")
_OF_THE_FILE = {getattr(errno, name) for name in _NAMES if hasattr(errno, name)}
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""Errors for a missing file; ELOOP: links in a circle."""


class UnreadableFile(LocalDiskError):
    """A blob's file, unreadable by its own fault."""


def is_absent(error: OSError) -> bool:
    """Return whether an error stands for a missing file."""
    return error.errno in _ABSENT


def is_of_file(error: OSError, path: Path | str) -> bool:
    """Return whether an error from opening or reading concerns this file alone."""
    if error.errno in _DENIED:
        try:
            os.stat(path)  # noqa: PTH116
        except OSError:
            return False  # the folder denies the access, not the file
        return True
    return error.errno in _OF_THE_FILE


@contextlib.contextmanager
def file_errors(doing: str, path: Path | str) -> Iterator[None]:
    """Turn errors of the system about a blob's file into ``LocalDiskError``, as ``disk_errors`` does.

    Args:
        doing: the action, in the first words of the text.
        path: the file.

    Raises:
        UnreadableFile: the error is about the file alone.
        LocalDiskError: any other error of the system.
    """
    try:
        with disk_errors(doing, path):
            yield
    except LocalDiskError as error:
        cause = error.__cause__
        if type(error) is LocalDiskError and isinstance(cause, OSError) and is_of_file(cause, path):
            raise UnreadableFile(str(error)) from cause
        raise


class BlobSearch:
    """The obstacles met in the search for a blob.

    Attributes:
        wrong: the fault of the first file with the blob's name and other bytes.
        failure: the first error that leaves the blob's presence unknown.
    """

    def __init__(self) -> None:
        """Have met no obstacle yet."""
        self.wrong: str | None = None
        self.failure: LocalDiskError | None = None

    def add_error(self, error: LocalDiskError) -> None:
        """Record the first fault of a file itself as ``wrong``, the first other error as ``failure``."""
        if isinstance(error, UnreadableFile):
            self.wrong = self.wrong or str(error)
        else:
            self.failure = self.failure or error

    def add_corrupt(self, what: str) -> None:
        """Record a file whose bytes are not those of its name."""
        self.wrong = self.wrong or what

    def check(self) -> None:
        """Raise an error that leaves the blob's presence unknown, if there was one.

        Raises:
            LocalDiskError: the first such error.
        """
        if self.failure:
            raise self.failure

    def raise_outcome(self, missing: str) -> NoReturn:
        """End a search without a right file.

        Args:
            missing: the text where the blob is just not there.

        Raises:
            LocalDiskError: an error hides whether the blob is there.
            BlobCorrupt: a file is there, and wrong.
            BlobMissing: no file is there.
        """
        self.check()
        if self.wrong:
            raise BlobCorrupt(f"{self.wrong}; put the blob again to repair it")
        raise BlobMissing(missing)
