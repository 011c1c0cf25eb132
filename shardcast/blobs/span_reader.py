"""Reading and hashing of a span: the bytes of a shard in a file."""

from __future__ import annotations

import asyncio
import os
from io import FileIO

from shardcast.digest import Hasher
from shardcast.disk_errors import disk_errors
from shardcast.errors import BlobCorrupt
from shardcast.file_identity import FileIdentity
from shardcast.store.file_errors import file_errors
from shardcast.store.interfaces import Span

_CHUNK = 1 << 20
"""Bytes read at a time for hashing."""


class SpanReader:
    """Reader of a span (a ``BlobReader``).

    Attributes:
        size: bytes of the span.
        span: place of its bytes.
        path: the file of the span.
        identity: the state of the file at its opening.
    """

    def __init__(self, span: Span, file: FileIO | None = None) -> None:
        """Open the span's file, or take an open ``file``, closed together with this reader.

        Raises:
            OSError: the file can't be read.
        """
        self.size = span.length
        self.span: Span | None = span
        self.path = span.path
        self._left = span.length
        self._file = file or span.path.open("rb", buffering=0)
        self._file.seek(span.offset)
        self.identity = FileIdentity.from_stat(os.fstat(self._file.fileno())).text

    async def read(self, max_bytes: int) -> bytes:
        """Return the next bytes, at most ``max_bytes``; empty at the end.

        Raises:
            LocalDiskError: the file can't be read.
            BlobCorrupt: the file became shorter.
        """
        count = min(max_bytes, self._left)
        if not count:
            return b""
        with disk_errors("could not read", self.path):
            data = await asyncio.to_thread(self._file.read, count)
        if not data:
            raise BlobCorrupt(f"{self.path} became shorter while being read")
        self._left -= len(data)
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def duplicate(self) -> SpanReader:
        """Return a reader with a descriptor of its own, to be closed by the caller.

        Only for ``hash_into``, which reads by position: both descriptors share one offset.

        Raises:
            LocalDiskError: no descriptors are left.
        """
        assert self.span
        with disk_errors("could not open", self.path):
            return SpanReader(self.span, os.fdopen(os.dup(self._file.fileno()), "rb", buffering=0))

    def hash_into(self, hasher: Hasher, max_bytes: int) -> int:
        """Hash the next bytes, at most ``max_bytes``, and return how many those were; blocks on the disk.

        Raises:
            LocalDiskError: the file can't be read.
        """
        assert self.span
        taken = 0
        with file_errors("could not read", self.path):
            while taken < max_bytes and self._left:
                position = self.span.offset + self.size - self._left
                chunk = os.pread(self._file.fileno(), min(_CHUNK, max_bytes - taken, self._left), position)
                if not chunk:
                    break
                hasher.update(chunk)
                taken += len(chunk)
                self._left -= len(chunk)
        return taken
