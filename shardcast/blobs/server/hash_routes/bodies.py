"""The bodies of requests: read when they are wanted, and only then."""

from __future__ import annotations

from aiohttp import web

from shardcast.blobs.server.hash_routes.requests import BareResponse
from shardcast.server.bodies import chunks, read_body
from shardcast.server.connections import CONNECTIONS


async def when_wanted(request: web.Request) -> None:
    """A sender who asks before sending a body is told to go on when the body is wanted."""
    if _waits(request):
        request.app[CONNECTIONS].of(request).body_awaited = False


def _waits(request: web.Request) -> bool:
    return request.headers.get("Expect", "").lower() == "100-continue"


async def go_on(request: web.Request) -> None:
    """Tell the sender, if he waits for it, that the body is wanted."""
    if _waits(request) and request.transport:
        request.app[CONNECTIONS].of(request).body_awaited = True
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def whole(request: web.Request, most: int) -> bytes:
    """A body of so many bytes at the most; raises as ``read_body`` does."""
    await go_on(request)
    return await read_body(request, most)


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
