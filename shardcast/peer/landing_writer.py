"""The bytes of an answer on their way into a landing."""

from __future__ import annotations

import asyncio
import mmap

import aiohttp

from shardcast.errors import BadAnswer
from shardcast.fair_limit import Share
from shardcast.peer.requests import RangeRequest
from shardcast.store.landing import Landing

BUFFER_SIZE = 1 << 20
"""Bytes verified and written at a time."""
_MAX_HELD = 0.01
"""Maximum seconds for a whole piece to wait for more bytes before verification and writing."""


def receive_buffer(piece_size: int) -> memoryview:
    """Return a buffer of whole pieces, of 1 MiB or a single larger piece.

    A buffer of more than 1 MiB takes memory only for its written part: the size of a piece is a manifest's
    claim, up to 64 MiB.

    Raises:
        MemoryError: this machine has no room for the buffer.
    """
    size = max(BUFFER_SIZE // piece_size, 1) * piece_size
    try:
        # Reused memory needs no page faults, which would cost small shards 3 ms each.
        return memoryview(bytearray(size) if size <= BUFFER_SIZE else mmap.mmap(-1, size))
    except OSError as error:
        raise MemoryError from error


class LandingWriter:
    """Bytes of one answer on their way into a landing.

    While some are verified and written, the next ones fill a second buffer. Whole pieces go as soon as there
    are many, or the last ones went some time ago. A piece as large as a buffer is waited for, so an answer
    holds no more than one of those.
    """

    def __init__(self, landing: Landing, start: int) -> None:
        """Write to ``landing`` from the byte ``start`` of the shard on, the start of a piece."""
        self._landing = landing
        self._buffer = receive_buffer(landing.piece_size)
        alone = landing.piece_size >= BUFFER_SIZE
        self._spare = self._buffer if alone else receive_buffer(landing.piece_size)
        self._filled = 0
        self._start = start  # of the buffer, in the shard
        self._under_way: asyncio.Future[None] | None = None
        self._landed_at = 0.0

    @property
    def position(self) -> int:
        """The next byte of the shard for the writer to take."""
        return self._start + self._filled

    async def pour(self, data: memoryview, end: int) -> int:
        """Copy as many bytes as fit, and return their number; land whole pieces once many or due.

        Args:
            data: the next bytes.
            end: end of the last piece.

        Raises:
            WrongPiece: a piece was wrong.
            LocalDiskError: the landing can't be written.
        """
        count = min(len(data), len(self._buffer) - self._filled)
        self._buffer[self._filled : self._filled + count] = data[:count]
        self._filled += count
        if self._filled == len(self._buffer) or self.position >= end or self._is_due():
            await self._land(end)
        return count

    def _is_due(self) -> bool:
        """Return whether a whole piece has waited long enough, and nothing else is being written."""
        if self._filled < self._landing.piece_size or (self._under_way and not self._under_way.done()):
            return False
        return asyncio.get_running_loop().time() - self._landed_at >= _MAX_HELD

    async def finish(self, end: int) -> None:
        """Land all whole pieces, however the answer ended."""
        if self._filled:
            await self._land(end)
        await self._wait()

    async def _land(self, end: int) -> None:
        """Land the whole pieces of the buffer, and move the rest to the front of the next one."""
        await self._wait()
        beyond = max(0, self.position - end)  # a part that another connection took over meanwhile
        whole = self._filled - beyond
        if self.position < end:
            whole -= whole % self._landing.piece_size
        left = self._filled - beyond - whole
        self._filled = left
        if whole > 0 and self._spare is self._buffer:
            await self._landing.land(self._start, self._buffer[:whole])
            self._buffer[:left] = self._buffer[whole : whole + left]
            self._start += whole
        elif whole > 0:
            self._spare[:left] = self._buffer[whole : whole + left]
            self._under_way = asyncio.ensure_future(self._landing.land(self._start, self._buffer[:whole]))
            self._start += whole
            self._buffer, self._spare = self._spare, self._buffer
        self._landed_at = asyncio.get_running_loop().time()

    async def _wait(self) -> None:
        """Wait for the bytes of the spare buffer to land; only then may others fill it.

        A cancelled wait leaves the landing under way: its thread still reads the buffer.
        """
        if self._under_way:
            try:
                await asyncio.shield(self._under_way)
            finally:
                if self._under_way.done():
                    self._under_way = None


async def write_body(
    response: aiohttp.ClientResponse,
    landing: Landing,
    request: RangeRequest,
    *,
    server: str,
    path: str,
    skip: int,
    share: Share | None = None,
) -> None:
    """Write the body of an answer to a landing. While one buffer is verified and written, the next fills.

    Args:
        response: the answer.
        landing: landing of the shard.
        request: the requested range; ``received`` and ``writing`` show its progress.
        server: the URL of the server, for errors.
        path: path of the request, for errors.
        skip: bytes of the body before the requested ones.
        share: share of the download limit; None without one.

    Raises:
        BadAnswer: the body ended too early.
        WrongPiece: a piece was wrong.
        LocalDiskError: the landing can't be written.
    """
    writer = LandingWriter(landing, request.start)
    rest = memoryview(b"")
    try:
        while writer.position < request.end:
            if not rest:
                rest = memoryview(await response.content.readany())
                if share:
                    request.writing = True
                    await share.take_all(len(rest))
                    request.writing = False
                request.received += max(0, len(rest) - skip)
                if not rest:
                    missing = request.end - writer.position
                    raise BadAnswer(server, f"GET {path}: it ended {missing} bytes too early")
            if skip:
                skip, rest = skip - min(skip, len(rest)), rest[skip:]
                continue
            # The end may have come nearer while this waited: another connection took the rest over.
            request.writing = True
            rest = rest[await writer.pour(rest[: max(0, request.end - writer.position)], request.end) :]
            request.writing = False
    finally:
        await writer.finish(request.end)
