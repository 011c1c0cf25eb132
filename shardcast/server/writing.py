"""Bytes ─▶ a started answer, in portions taken by its reader in time."""

from __future__ import annotations

import asyncio

from aiohttp import hdrs, web

from shardcast.server.bounds import bounds_of
from shardcast.server.upload_limit import count, take, take_all

UNBUFFERED_HEADERS = {"X-Accel-Buffering": "no"}
"""Headers of an answer made while sent. nginx holds the head and up to 8 KiB of other answers back until more
arrives, a stall in the view of the reader."""
PORTION = 64 << 10
"""Bytes handed to the transport at a time: it copies those not taken by the socket."""


class BlobResponse(web.Response):
    """A whole answer with a body sent in turn under an upload limit, however small."""


async def write(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    """Write ``data`` to a prepared answer, as fast as its reader takes them.

    An upload limit counts the bytes, and does not delay them.

    Raises:
        ConnectionError: the reader went away.
        TimeoutError: the reader takes nothing for ``Bounds.reader_seconds``.
    """
    count(request, len(data))
    await write_granted(request, response, data)


async def write_in_turn(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    """Write ``data`` like ``write``, each portion when an upload limit allows it."""
    view, end, start = memoryview(data), len(data), 0
    while start < end:
        granted = await take(request, end - start)
        await write_granted(request, response, view[start : start + granted])
        start += granted


async def write_granted(request: web.Request, response: web.StreamResponse, data: bytes | memoryview) -> None:
    """Write ``data`` like ``write``, after an upload limit has allowed it."""
    seconds, view = bounds_of(request).reader_seconds, memoryview(data)
    for start in range(0, len(data), PORTION):
        async with asyncio.timeout(seconds):  # not wait_for, whose task costs more than a feed's line
            await response.write(view[start : start + PORTION])
            await request.writer.drain()  # aiohttp itself waits only each 64 KiB


async def write_body(request: web.Request, response: web.Response) -> None:
    """Send an answer with its body in memory, portion by portion.

    Handed over at once, the body would be copied for a reader that does not take it.

    Raises:
        ConnectionError: the reader went away.
    """
    body = response.body
    await response.prepare(request)
    if isinstance(body, (bytes, bytearray)) and len(body) > PORTION and not response.compression:
        if request.method != hdrs.METH_HEAD:
            try:
                await write_in_turn(request, response, bytes(body))
            except TimeoutError:
                raise ConnectionResetError("the reader stalled") from None
        response.body = None
    elif isinstance(body, (bytes, bytearray)) and request.method != hdrs.METH_HEAD:
        if isinstance(response, BlobResponse):
            await take_all(request, len(body))
        else:
            count(request, len(body))
    await response.write_eof()
