"""Exit codes and their errors. docs/operations.md shows the same table."""

from __future__ import annotations

from shardcast.errors import (
    AccessDenied,
    BlobMissing,
    CannotAsk,
    CopiesMissing,
    IntegrityError,
    LocalDiskError,
    NoServerReachable,
    ServerStalled,
    ServerUnreachable,
    ShardcastError,
    TlsFailure,
    UsageError,
    VersionNotOffered,
    WrongBytes,
    WrongStore,
)

DONE = 0
OTHER_FAILURE = 1
USAGE = 2
NOT_OFFERED = 3
NO_SERVER = 4
INTEGRITY = 5
LOCAL_DISK = 6
COPIES_MISSING = 7
PARTLY_DONE = 7
ACCESS_DENIED = 8
INTERRUPTED = 130

# The first fitting row counts: a subclass stands above its base class.
_TABLE: tuple[tuple[type[ShardcastError], int], ...] = (
    (UsageError, USAGE),
    (WrongStore, USAGE),
    (VersionNotOffered, NOT_OFFERED),
    (BlobMissing, NOT_OFFERED),
    (NoServerReachable, NO_SERVER),
    (CannotAsk, LOCAL_DISK),
    (ServerUnreachable, NO_SERVER),
    (TlsFailure, NO_SERVER),
    (ServerStalled, NO_SERVER),
    (IntegrityError, INTEGRITY),
    (WrongBytes, INTEGRITY),
    (LocalDiskError, LOCAL_DISK),
    (CopiesMissing, COPIES_MISSING),
    (AccessDenied, ACCESS_DENIED),
)


def exit_code(error: ShardcastError) -> int:
    """Return the exit code of a command failing with this error."""
    return next((code for kind, code in _TABLE if isinstance(error, kind)), OTHER_FAILURE)
