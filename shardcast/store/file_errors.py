"""What an error of the system says about a blob: that its file is no good, or nothing but that this machine
can't tell now.

A file that can't be opened or read, for a reason of its own, is as good as a corrupt one: the blob is looked
for elsewhere, and what is put repairs it. Anything else (descriptors or memory run out, a folder that may not
be looked into) says nothing of the blob, and is never told as its absence.
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
_NAMES = ("EIO", "EUCLEAN", "EBADMSG", "ESTALE", "ENXIO", "ENODEV", "EISDIR", "EOVERFLOW")
_OF_THE_FILE = {getattr(errno, name) for name in _NAMES if hasattr(errno, name)}
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""ELOOP: links that go round in a circle."""


class UnreadableFile(LocalDiskError):
    """A blob's file can't be opened or read, for a reason of its own."""


def says_absent(error: OSError) -> bool:
    """Whether an error says that there is no such file."""
    return error.errno in _ABSENT


def is_of_file(error: OSError, path: Path | str) -> bool:
    """Whether an error that came of opening or reading a file says something about that file alone."""
    if error.errno in _DENIED:
        try:
            os.stat(path)  # noqa: PTH116
        except OSError:
            return False  # the folder may not be looked into
        return True
    return error.errno in _OF_THE_FILE


@contextlib.contextmanager
def file_errors(doing: str, path: Path | str) -> Iterator[None]:
    """``disk_errors`` of what is done to a blob's file; of those, ``UnreadableFile`` where it is the file's
    own fault."""
    try:
        with disk_errors(doing, path):
            yield
    except LocalDiskError as error:
        cause = error.__cause__
        if type(error) is LocalDiskError and isinstance(cause, OSError) and is_of_file(cause, path):
            raise UnreadableFile(str(error)) from cause
        raise


class Search:
    """What was in the way of finding a blob.

    Attributes:
        wrong: what is the matter with the first file that is there and isn't it.
        failure: why it can't be told that it isn't there.
    """

    def __init__(self) -> None:
        self.wrong: str | None = None
        self.failure: LocalDiskError | None = None

    def met(self, error: LocalDiskError) -> None:
        """A file couldn't be looked into."""
        if isinstance(error, UnreadableFile):
            self.wrong = self.wrong or str(error)
        else:
            self.failure = self.failure or error

    def met_wrong(self, what: str) -> None:
        """A file is not what its name says."""
        self.wrong = self.wrong or what

    def check(self) -> None:
        """
        Raises:
            LocalDiskError: it can't be told that the blob isn't there.
        """
        if self.failure:
            raise self.failure

    def end(self, missing: str) -> NoReturn:
        """No right file was found.

        Raises:
            LocalDiskError: it can't be told that there is none.
            BlobCorrupt: what is there is no good.
            BlobMissing: there is none; ``missing`` says so.
        """
        self.check()
        if self.wrong:
            raise BlobCorrupt(f"{self.wrong}; put it again to repair it")
        raise BlobMissing(missing)
