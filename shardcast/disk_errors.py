"""The system's errors about a disk, put into words."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from shardcast.errors import LocalDiskError, LocalLimit, ShardcastError

_FULL = (errno.ENOSPC, errno.EDQUOT)


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
