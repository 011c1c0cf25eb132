"""The refusals of a backup server: a sentence for the client, and the status of the answer."""

from __future__ import annotations

from collections.abc import Sequence

from shardcast.errors import ShardcastError


class BackupRefused(ShardcastError):
    """A request refused by the backup server.

    Attributes:
        status: status of the answer.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class ChunksMissing(BackupRefused):
    """A snapshot that needs missing or damaged chunks.

    Attributes:
        ids: some of these chunks.
    """

    def __init__(self, message: str, ids: Sequence[bytes] = ()) -> None:
        super().__init__(message, 409)
        self.ids = ids

    @classmethod
    def of(cls, ids: Sequence[bytes]) -> ChunksMissing:
        """Return the error of these chunks."""
        return cls(f"{len(ids)} chunks of the snapshot are missing or damaged; send them", ids)
