"""The bytes of an answer on their way into a landing."""

from __future__ import annotations

import asyncio
import mmap

from shardcast.store.landing import Landing

BUFFER_SIZE = 1 << 20
"""Bytes that are verified and written at a time."""
_LONGEST_HELD = 0.01
"""Seconds that a whole piece waits for more before it is verified and written."""


def receive_buffer(piece_size: int) -> memoryview:
    """Return a buffer of whole pieces. Of one of more than 1 MiB only what was written to takes memory: the
    size of a piece is what a manifest claims, up to 64 MiB."""
    size = max(BUFFER_SIZE // piece_size, 1) * piece_size
    try:
        # Memory that is used again needs no page faults, which would cost small shards 3 ms each.
        return memoryview(bytearray(size) if size <= BUFFER_SIZE else mmap.mmap(-1, size))
    except OSError as error:
        raise MemoryError from error


class LandingWriter:
    """Bytes of one answer on their way into a landing. While some are verified and written, the next ones
    fill a buffer; whole pieces go as soon as there are many, or the last ones went some time ago. A piece
    that fills a buffer by itself is waited for, so that an answer holds no more than one of those."""

    def __init__(self, landing: Landing, start: int) -> None:
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
        """The next byte that it takes."""
        return self._start + self._filled

    async def pour(self, data: memoryview, end: int) -> int:
        """Take bytes, as many as fit; ``end`` is where the last piece ends."""
        count = min(len(data), len(self._buffer) - self._filled)
        self._buffer[self._filled : self._filled + count] = data[:count]
        self._filled += count
        if self._filled == len(self._buffer) or self.position >= end or self._is_time():
            await self._land(end)
        return count

    def _is_time(self) -> bool:
        if self._filled < self._landing.piece_size or (self._under_way and not self._under_way.done()):
            return False
        return asyncio.get_running_loop().time() - self._landed_at >= _LONGEST_HELD

    async def finish(self, end: int) -> None:
        """Land what is whole, however the answer ended."""
        if self._filled:
            await self._land(end)
        await self._wait()

    async def _land(self, end: int) -> None:
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
        """The spare buffer is free only when what was landing from it has landed."""
        if self._under_way:
            try:
                await asyncio.shield(self._under_way)
            finally:
                if self._under_way.done():
                    self._under_way = None
