"""The bodies of requests: read when they are wanted, and only then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from shardcast.constants import STALLED_READER
from shardcast.server.blobs.requests import BareResponse


async def when_wanted(request: web.Request) -> None:
    """A sender who asks before sending a body is told to go on when the body is wanted."""


def _waits(request: web.Request) -> bool:
    return request.headers.get("Expect", "").lower() == "100-continue"


async def go_on(request: web.Request) -> None:
    """Tell the sender, if he waits for it, that the body is wanted."""
    if _waits(request) and request.transport:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def whole(request: web.Request, most: int) -> bytes:
    """A body of so many bytes at the most.

    Raises:
        HTTPRequestEntityTooLarge: it is longer.
        ConnectionError: the sender went away, or sends no more.
    """
    await go_on(request)
    body = bytearray()
    async for some in chunks(request):
        body += some
        if len(body) > most:
            raise web.HTTPRequestEntityTooLarge(max_size=most, actual_size=len(body))
    return bytes(body)


async def chunks(request: web.Request) -> AsyncIterator[bytes]:
    """A body as it comes.

    Raises:
        ConnectionError: the sender went away, or sends no more.
    """
    content = request.content
    while not content.at_eof():
        some = content.read_nowait()  # to wait for what is here would take longer than to receive it
        if not some:
            try:
                some = await asyncio.wait_for(content.readany(), STALLED_READER)
            except asyncio.TimeoutError:
                raise ConnectionResetError(f"nothing came for {STALLED_READER:g} s") from None
        if some:
            yield some


async def without_body(request: web.Request, status: int) -> web.StreamResponse:
    """Answer at once to a body that isn't wanted. Who sends it all the same before it listens can do so."""
    response = BareResponse(status=status)
    if not request.can_read_body:
        return response
    if _waits(request):
        response.force_close()
    await response.prepare(request)
    await response.write_eof()
    if _waits(request):
        if request.transport:
            request.transport.close()
        return response
    async for _ in chunks(request):
        pass
    return response
