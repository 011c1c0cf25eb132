"""Bodies that must go on: what comes, and what goes out, in portions that each have a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable

import aiohttp

from shardcast.errors import ServerStalled

PORTION = 64 << 10
"""Bytes of a body that must come, or be taken, within the time-out, where there are so many."""


async def read_by(deadline: float, read: Callable[..., Awaitable[bytes]], *words: int) -> bytes:
    """Return what ``read(*words)`` gives by a deadline, a time of the loop's clock.

    Raises:
        TimeoutError: nothing came in time.
    """
    # Where bytes are there already, reading does not suspend, and no timeout would ever end a flood of them.
    if asyncio.get_running_loop().time() >= deadline:
        raise TimeoutError
    async with asyncio.timeout_at(deadline):
        return await read(*words)


async def paced(
    response: aiohttp.ClientResponse, server: str, what: str, timeout: float
) -> AsyncGenerator[bytes, None]:
    """What an answer holds, as it comes; of which 64 KiB must come within ``timeout`` seconds of waiting.

    Raises:
        ServerStalled: it comes too slowly.
    """
    loop, left, progress = asyncio.get_running_loop(), timeout, 0
    while True:
        begun = loop.time()
        try:
            chunk = await read_by(begun + left, response.content.readany)
        except TimeoutError:
            raise ServerStalled(server, f"{what}: too little came within {timeout:g} s") from None
        if not chunk:
            return
        left -= loop.time() - begun
        progress += len(chunk)
        if progress >= PORTION:
            left, progress = timeout, 0
        yield chunk


class Upload:
    """A body that goes out in portions, each of which must be taken in time."""

    def __init__(self, chunks: AsyncIterable[bytes], keeping: Callable[[], float] = lambda: 0.0) -> None:
        """``keeping``: seconds that the server may take, beyond its time, to keep what went out."""
        self._chunks = chunks
        self._keeping = keeping
        self._handed_over: float | None = None
        self._reading = False

    def begun_before(self, begun: float) -> float:
        """Return since when, by the loop's clock, the server has been to take a portion or to answer: now,
        while the next portion is being read; ``begun``, before the first one."""
        if self._reading:
            return asyncio.get_running_loop().time()
        return (begun if self._handed_over is None else self._handed_over) + self._keeping()

    async def portions(self) -> AsyncGenerator[bytes, None]:
        """Yield the body."""
        loop = asyncio.get_running_loop()
        self._reading = True
        try:
            async for chunk in self._chunks:
                for start in range(0, len(chunk), PORTION):
                    self._reading, self._handed_over = False, loop.time()
                    yield chunk if len(chunk) <= PORTION else chunk[start : start + PORTION]
                self._reading = True
        finally:
            self._reading, self._handed_over = False, loop.time()
