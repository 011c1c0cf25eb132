"""What each error is as an exit code: scripts rely on it."""

from __future__ import annotations

import pytest

from shardcast import errors
from shardcast.cli.exit_codes import exit_code
from shardcast.errors import ShardcastError

CODES = {
    "UsageError": 2, "StoreNotConfigured": 2, "InvalidName": 2, "WrongStore": 2,
    "VersionNotOffered": 3, "VersionWithdrawn": 3, "BlobMissing": 3,
    "NoServerReachable": 4, "ServerUnreachable": 4, "TlsFailure": 4, "ServerStalled": 4,
    "IntegrityError": 5, "BlobCorrupt": 5, "HashMismatch": 5, "HashCollision": 5, "WrongBytes": 5,
    "LocalDiskError": 6, "NoRoom": 6, "PayloadMissing": 6, "PayloadChanged": 6,
    "LocalLimit": 6, "CannotAsk": 6,
    "CopiesMissing": 7, "AccessDenied": 8,
}  # fmt: skip
"""Every other error is 1."""

KINDS = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ShardcastError)
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_exit_code_of_each_error(kind: type[ShardcastError]) -> None:
    error = kind("http://a", "it") if issubclass(kind, errors.PeerError) else kind("it")
    assert exit_code(error) == CODES.get(kind.__name__, 1)
