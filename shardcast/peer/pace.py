"""Bodies with enforced progress: received and sent in portions with a deadline each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable

import aiohttp

from shardcast.errors import ServerStalled
from shardcast.fair_limit import Share

PORTION = 64 << 10
"""Bytes of a body to be received, or taken, within each time-out, where so many are left."""


async def read_by(deadline: float, read: Callable[..., Awaitable[bytes]], *words: int) -> bytes:
    """Return the result of ``read(*words)``, by a deadline of the loop's clock.

    Raises:
        TimeoutError: nothing came in time.
    """
    # Reading buffered bytes does not suspend, so no timer would ever end a flood of them.
    if asyncio.get_running_loop().time() >= deadline:
        raise TimeoutError
    async with asyncio.timeout_at(deadline):
        return await read(*words)


async def read_paced(
    response: aiohttp.ClientResponse, server: str, what: str, timeout: float, *, share: Share | None = None
) -> AsyncGenerator[bytes, None]:
    """Yield the body of an answer as it comes, at least 64 KiB in each ``timeout`` seconds of waiting.

    Args:
        response: the answer.
        server: the URL of the server, for errors.
        what: the request, for errors.
        timeout: seconds; the caller's time between two chunks does not count.
        share: share of the download limit; None without one. Waits for the share do not count, either.

    Raises:
        ServerStalled: the body comes too slowly.
    """
    loop, left, progress = asyncio.get_running_loop(), timeout, 0
    while True:
        started = loop.time()
        try:
            chunk = await read_by(started + left, response.content.readany)
        except TimeoutError:
            raise ServerStalled(server, f"{what}: too little came within {timeout:g} s") from None
        if not chunk:
            return
        left -= loop.time() - started
        progress += len(chunk)
        if progress >= PORTION:
            left, progress = timeout, 0
        if share:
            await share.take_all(len(chunk))
        yield chunk


class Upload:
    """A body sent in portions, each to be taken by the server in time."""

    def __init__(
        self, chunks: AsyncIterable[bytes], storage_seconds: Callable[[], float] = lambda: 0.0
    ) -> None:
        """Prepare to send ``chunks``.

        Args:
            chunks: the body.
            storage_seconds: returns the extra seconds for the server to store the bytes sent so far.
        """
        self._chunks = chunks
        self._keeping = storage_seconds
        self._handed_over: float | None = None
        self._reading = False

    def due_since(self, started: float) -> float:
        """Return the time, by the loop's clock, since which the server is due to take a portion or to answer.

        This is now, while the next portion is read here, and ``started`` before the first one.
        """
        if self._reading:
            return asyncio.get_running_loop().time()
        return (started if self._handed_over is None else self._handed_over) + self._keeping()

    async def portions(self, share: Share | None = None) -> AsyncGenerator[bytes, None]:
        """Yield the body in portions, and record the time of each.

        ``share``: of the upload limit; None without one. Waits for the share are no fault of the server.
        """
        loop = asyncio.get_running_loop()
        self._reading = True
        try:
            async for chunk in self._chunks:
                start = 0
                while start < len(chunk):
                    size = min(PORTION, len(chunk) - start)
                    if share:
                        size = await share.take(size, len(chunk) - start)
                    self._reading, self._handed_over = False, loop.time()
                    yield chunk if size == len(chunk) else chunk[start : start + size]
                    start, self._reading = start + size, share is not None
                self._reading = True
        finally:
            self._reading, self._handed_over = False, loop.time()
