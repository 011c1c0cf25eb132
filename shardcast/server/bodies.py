"""The bodies of requests, read within the bounds of the listener."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from shardcast.json_text import parse_json
from shardcast.protocol.wire import RETRY_AFTER
from shardcast.server.bounds import SMALL_BODY, bounds_of
from shardcast.server.connections import CONNECTIONS, BodyTooSlow

_BULK = 1 << 20
"""Bytes to read ahead of a large body once its handler reads."""


class BodyTooLarge(web.HTTPRequestEntityTooLarge):
    """A body with more bytes than its route takes.

    Attributes:
        length: bytes, as far as known.
    """

    def __init__(self, max_bytes: int, length: int) -> None:
        super().__init__(max_bytes, length)
        self.length = length
        self.force_close()  # the rest is not read


async def read_body(request: web.Request, max_bytes: int) -> bytes:
    """Return a body of at most ``max_bytes``.

    Raises:
        BodyTooLarge: the body is longer.
        HTTPServiceUnavailable: other bodies take all the memory for bodies.
        ConnectionError: the sender went away, or is too slow.
    """
    content = request.content
    if content.is_eof() and content.total_bytes <= min(max_bytes, SMALL_BODY, bounds_of(request).body_bytes):
        return content.read_nowait()  # a small body comes with its head, and needs no time-out
    seconds = bounds_of(request).body_seconds
    try:
        async with asyncio.timeout(seconds):
            body = await _read(request, min(max_bytes, bounds_of(request).body_bytes))
    except TimeoutError:
        raise BodyTooSlow(f"the body took longer than {seconds:g} s") from None
    if isinstance(body, web.HTTPException):
        raise body
    return body


async def _read(request: web.Request, max_bytes: int) -> bytes | web.HTTPException:
    """Return a body, or the refusal.

    No byte of the body may be left in this frame: aiohttp keeps an exception raised as the answer, with the
    frames of its traceback, while it reads and drops the rest of the body.
    """
    if (request.content_length or 0) > max_bytes:
        return BodyTooLarge(max_bytes, request.content_length or 0)
    size, reservation = 0, request.app[CONNECTIONS].watch_of(request).reserved
    assert reservation
    parts: list[bytearray] = []  # one growing buffer would be moved again and again, and fragment the heap
    try:
        async for chunk in chunks(request):
            size += len(chunk)
            if size > max_bytes:
                return BodyTooLarge(max_bytes, size)
            if size > SMALL_BODY and not reservation.grow(size):
                return _no_room()
            if parts and len(parts[-1]) < SMALL_BODY:
                parts[-1] += chunk
            else:
                parts.append(bytearray(chunk))
        return b"".join(parts)
    finally:
        parts.clear()


def _no_room() -> web.HTTPException:
    """Return the refusal of a body for lack of memory."""
    refusal = web.HTTPServiceUnavailable(
        text="503: too many large requests at once\n", headers={"Retry-After": RETRY_AFTER}
    )
    refusal.force_close()  # the rest is not read
    return refusal


async def read_json_line(request: web.Request, seconds: float | None) -> Any:
    """Return the value in the next line of an open body.

    aiohttp bounds the line, by twice the ``read_bufsize`` of the application.

    Args:
        request: the request.
        seconds: time for the line; None without bound.

    Raises:
        TimeoutError: no whole line came in time. OSError, aiohttp.ClientError, web.RequestPayloadError: the
            sender went away.
        ValueError: the line is too long, or is no JSON.
    """
    async with asyncio.timeout(seconds):
        line = await request.content.readline()
    return parse_json(line)


def malformed(error: Exception) -> web.HTTPBadRequest:
    """Return the answer to a request whose values can't be used; a ``KeyError`` names a missing one."""
    reason = f"the request lacks {error}" if isinstance(error, KeyError) else str(error)
    return web.HTTPBadRequest(text=f"400: {reason}\n")


async def chunks(request: web.Request) -> AsyncIterator[bytes]:
    """Yield a body as it arrives. ``Connections`` fails this when the body is too slow.

    Raises:
        ConnectionError: the sender went away, or is too slow.
    """
    content = request.content
    read_ahead = getattr(content, "set_read_chunk_size", None)  # of later versions of aiohttp
    if read_ahead:
        read_ahead(_BULK)
    while not content.at_eof():
        # read_nowait first: awaiting bytes already received would take longer than receiving them.
        chunk = content.read_nowait() or await content.readany()
        if chunk:
            yield chunk
