"""Errors of the system about a disk, as messages with the file and a way out."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from shardcast.errors import LocalDiskError, LocalLimit, ShardcastError

_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a full disk or an exhausted quota."""


@contextlib.contextmanager
def disk_errors(operation: str, path: Path | str) -> Iterator[None]:
    """Turn errors of the system into ``LocalDiskError``, with the operation and the file in the message.

    Args:
        operation: the failed operation, the beginning of the message: ``could not write``.
        path: the file.

    Raises:
        LocalDiskError: the block raised an ``OSError`` of the system; ``LocalLimit`` for a limit on this
            process.
        ShardcastError: any error of ours from the block, unchanged.
    """
    try:
        yield
    except ShardcastError:
        raise
    except OSError as error:
        limit = LocalLimit.of(error)
        if limit:
            limit.args = (f"{operation} {path}: {limit}",)
            raise limit from error
        hint = "; free some space and try again, what is here is kept" if error.errno in _FULL else ""
        failure = LocalDiskError(f"{operation} {path}: {error.strerror or error}{hint}")
        failure.errno = error.errno
        raise failure from error


def error_text(error: OSError) -> str:
    """Return the message of a system error and its file, without the number."""
    if isinstance(error, ShardcastError) or not error.strerror:
        return str(error)
    return f"could not use {error.filename}: {error.strerror}" if error.filename else error.strerror


def is_full(error: BaseException) -> bool:
    """Return whether an error, or its cause, is a full disk."""
    return any(isinstance(cause, OSError) and cause.errno in _FULL for cause in (error, error.__cause__))
