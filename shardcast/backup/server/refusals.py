"""The refusals of a backup server: a sentence for the client, and the status of the answer."""

from __future__ import annotations

from shardcast.errors import ShardcastError


class BackupRefused(ShardcastError):
    """A request that the backup server refuses.

    Attributes:
        status: of the answer.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ChunksMissing(BackupRefused):
    """A snapshot that needs chunks which are not there.

    Attributes:
        ids: some of the chunks.
    """

    def __init__(self, ids: list[bytes]) -> None:
        super().__init__(409, f"{len(ids)} chunks of the snapshot are missing or damaged; send them")
        self.ids = ids
