"""The bytes of a pack that a client may read: all of its own packs, only its own chunks in others' packs."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shardcast.backup.server.refusals import BackupRefused
from shardcast.disk_errors import disk_errors
from shardcast.store.interfaces import Span


@dataclass(frozen=True)
class ReadablePack:
    """The part of a pack that a client may read.

    Attributes:
        size: bytes of the pack.
        chunks: offset and length of each readable chunk; None if all bytes are readable.
    """

    size: int
    chunks: Sequence[tuple[int, int]] | None = None


def find_readable(database: sqlite3.Connection, client: int, digest: bytes) -> ReadablePack:
    """Return the part of a pack that a client may read.

    Raises:
        BackupRefused: this client has no chunk in such a pack; another client's pack is refused alike.
    """
    own = database.execute(
        "SELECT size FROM pack WHERE client = ? AND digest = ? AND state NOT IN ('arriving', 'lost')",
        (client, digest),
    ).fetchone()
    if own is not None:
        return ReadablePack(own[0])
    shared = database.execute(
        "SELECT size, offset, length FROM pack JOIN chunk ON chunk.pack = pack.number "
        "WHERE digest = ? AND chunk.client = ? AND state NOT IN ('arriving', 'lost') ORDER BY offset",
        (digest, client),
    ).fetchall()
    if not shared:
        raise BackupRefused("this client has no such pack; locate its chunks again", status=404)
    return ReadablePack(shared[0][0], [(offset, length) for _, offset, length in shared])


class MaskedPack:
    """A pack whose bytes are zeros where other clients' chunks lie; a ``BlobReader``.

    Attributes:
        size: bytes of the pack.
        span: None: no file has these bytes.
    """

    span: Span | None = None

    def __init__(self, file: Path, readable: ReadablePack) -> None:
        self.size = readable.size
        self._file = file
        self._chunks = readable.chunks or ()
        self._position = 0

    async def read(self, max_bytes: int) -> bytes:
        """Return the next bytes, ``max_bytes`` at the most; none at the end.

        Raises:
            LocalDiskError: the pack cannot be read.
        """
        start, end = self._position, min(self.size, self._position + max_bytes)
        self._position = end
        return await asyncio.to_thread(self._read, start, end)

    def _read(self, start: int, end: int) -> bytes:
        """Return bytes of the pack, of which only the client's chunks are read from the disk."""
        data = bytearray(end - start)
        parts = [
            (max(start, offset), min(end, offset + length))
            for offset, length in self._chunks
            if offset < end and offset + length > start
        ]
        if parts:
            with disk_errors("could not read", self._file), self._file.open("rb", buffering=0) as file:
                for first, last in parts:
                    part = os.pread(file.fileno(), last - first, first)
                    data[first - start : first - start + len(part)] = part
        return bytes(data)
