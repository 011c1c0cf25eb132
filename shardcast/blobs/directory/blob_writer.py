"""A blob being put into a directory: digested and written as it arrives, named when right."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shardcast.blobs.directory.compression import DigestCheck, MalformedCoding
from shardcast.blobs.directory.incoming_folder import IncomingFolder
from shardcast.blobs.directory.layout import BLOB_MODE, Folder
from shardcast.blobs.directory.marks import note_put
from shardcast.blobs.directory.verify_cache import VerifiedFile, VerifyCache
from shardcast.disk_errors import disk_errors
from shardcast.errors import IntegrityError
from shardcast.filesystem import give_name
from shardcast.open_files import close

_PIECE = 1 << 20
"""Bytes hashed and written at a time."""


class FileWriter:
    """A blob being put into a folder (a ``BlobWriter``).

    A thread digests and writes one piece while the event loop gathers the next; the next thread starts only
    after its end. A small blob is written when whole.
    """

    def __init__(
        self,
        folder: Folder,
        incoming: IncomingFolder,
        verified: VerifyCache,
        algorithm: str,
        *,
        digest: str | None,
        coding: str | None,
        after: Callable[[str, int], None],
    ) -> None:
        """Write a blob of a coding, with ``digest`` for its decoded bytes; None for any digest.

        ``after(digest, length)`` is called, in a thread or not, after the file has its name.
        """
        self._folder, self._incoming, self._verified = folder, incoming, verified
        self._digest, self._coding, self._after = digest, coding, after
        self._algorithm = algorithm
        self._check = DigestCheck(algorithm, coding)
        self._buffer: list[bytes | memoryview] = []
        self._buffered = 0  # bytes in the buffer
        self._part = ""
        self._descriptor = -1
        self._size = 0
        self._job: asyncio.Future[Any] | None = None

    async def write(self, data: bytes | memoryview, /) -> None:
        """See ``BlobWriter``; ``data`` is kept until its piece is written.

        Raises:
            LocalDiskError: earlier bytes cannot be stored.
            MalformedBlob: the bytes are not of the coding.
        """
        self._buffer.append(data)
        self._buffered += len(data)
        if self._buffered >= _PIECE:
            await self._await_job()
            piece, self._buffer, self._buffered = self._buffer, [], 0
            self._job = asyncio.ensure_future(asyncio.to_thread(self._write_piece, piece))

    async def commit(self) -> str:
        """See ``BlobWriter``; also MalformedBlob, an IntegrityError."""
        await self._await_job()
        size, started = self._size + self._buffered, time.perf_counter()
        if self._incoming.stores_inline(size):
            digest = self._store()
        else:
            storing = asyncio.ensure_future(asyncio.to_thread(self._store))
            self._job = storing
            digest = await asyncio.shield(storing)  # a thread can't be cancelled; ``discard`` waits for it
        self._incoming.record_duration(size, time.perf_counter() - started)
        return digest

    async def discard(self) -> None:
        """Wait for the thread, and remove the temporary file unless the blob was committed."""
        if self._job is not None:
            await asyncio.wait([self._job])
        if self._descriptor >= 0:
            close(self._descriptor)
            self._descriptor = -1
        if self._part:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._part)  # noqa: PTH108

    async def _await_job(self) -> None:
        """Wait for the working thread.

        Raises:
            LocalDiskError: the bytes so far can't be kept.
            MalformedBlob: they are not of the coding.
        """
        if self._job is not None:
            await asyncio.wait([self._job])
            job, self._job = self._job, None
            job.result()

    def _write_piece(self, piece: list[bytes | memoryview]) -> None:
        """Digest and write a piece; blocks on the disk."""
        with disk_errors("could not keep a blob in", Path(self._folder.root)):
            if self._descriptor < 0:
                self._part, self._descriptor = self._incoming.create()
            for part in piece:
                try:
                    self._check.update(part)
                except MalformedCoding as error:
                    raise _malformed(error) from None
                left = memoryview(part)
                while left:
                    written = os.write(self._descriptor, left)
                    self._size += written
                    left = left[written:]

    def _store(self) -> str:
        """Write the rest, check the digest, and give the file its name; blocks on the disk."""
        if self._buffer or self._descriptor < 0:
            self._write_piece(self._buffer)
        try:
            digest = self._check.finish()
        except MalformedCoding as error:
            raise _malformed(error) from None
        if self._digest is not None and digest != self._digest:
            raise IntegrityError(
                f"the blob put as {self._digest} has the digest {digest}; nothing was stored"
            )
        name = self._folder.path(digest, self._coding)
        with disk_errors("could not keep a blob as", Path(name)):
            self._incoming.make_parent(self._folder, digest)
            try:
                give_name(self._descriptor, self._part, name, mode=BLOB_MODE)
            except PermissionError:
                # Another user of our group has put the blob, and we cannot replace the file. Or the temporary
                # name is gone: then the file has its name, and only the sync of the folder failed.
                is_unnamed = os.path.lexists(self._part)
                if not is_unnamed or not self._is_right(name, digest) or not note_put(self._folder, digest):
                    raise
                return digest
            self._part = ""
            self._verified.add(digest, os.fstat(self._descriptor), VerifiedFile(self._check.length))
            self._after(digest, self._check.length)
        return digest

    def _is_right(self, name: str, digest: str) -> bool:
        """Return whether a file holds this blob, in the coding of this writer."""
        check = DigestCheck(self._algorithm, self._coding)
        try:
            with Path(name).open("rb") as file:
                while piece := file.read(_PIECE):
                    check.update(piece)
            return check.finish() == digest
        except (FileNotFoundError, MalformedCoding):
            return False


class MalformedBlob(IntegrityError):
    """Put bytes not of their coding."""


def _malformed(error: MalformedCoding) -> MalformedBlob:
    """Return the error for bytes not of their coding."""
    return MalformedBlob(f"{error}; nothing was kept")
