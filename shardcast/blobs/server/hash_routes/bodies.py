"""Request bodies, requested (100 Continue) only if wanted."""

from __future__ import annotations

from aiohttp import web

from shardcast.blobs.server.hash_routes.requests import BareResponse
from shardcast.server.bodies import chunks, read_body
from shardcast.server.connections import CONNECTIONS


async def delay_continue(request: web.Request) -> None:
    """Delay the 100 Continue of a request that expects one; ``send_continue`` sends it."""
    if _waits(request):
        # The bound on a slow body must not count the delay on this side.
        request.app[CONNECTIONS].watch_of(request).body_awaited = False


def _waits(request: web.Request) -> bool:
    """Return whether the sender waits for a 100 Continue."""
    return request.headers.get("Expect", "").lower() == "100-continue"


async def send_continue(request: web.Request) -> None:
    """Send a 100 Continue to a sender waiting for one."""
    if _waits(request) and request.transport:
        request.app[CONNECTIONS].watch_of(request).body_awaited = True
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def read_wanted_body(request: web.Request, max_size: int) -> bytes:
    """Return a body of at most ``max_size`` bytes; raises as ``read_body`` does."""
    await send_continue(request)
    return await read_body(request, max_size)


async def answer_without_body(request: web.Request, status: int) -> web.StreamResponse:
    """Answer a request at once, without reading its body first.

    A sender waiting for a 100 Continue loses the connection instead; the body of any other sender is read and
    dropped, so a client that sends before listening gets the answer.
    """
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
