"""Answers without a length and without chunks (HTTP/1.0), ended by the end of the connection.

An orderly end stands for a whole answer. So from the head on such a connection is set to end in a reset
(``SO_LINGER`` of no seconds, socket(7)), and set back when the last byte has left for the system. So the
reader learns of a cut answer, whatever the cause: a failed handler, an exception, the end of the node, or a
kill of its process.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from shardcast.server.bounds import bounds_of

_RESET, _ORDERLY = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)
"""Values of ``SO_LINGER``: the effect of closing the socket."""
_BODILESS = (101, 204, 304)
"""Statuses of answers without a body."""


async def end_in_reset(request: web.Request, response: web.StreamResponse) -> None:
    """Set the connection of an unframed answer to end in a reset (for ``on_response_prepare``)."""
    if _is_unframed(request, response):
        _end_in(request, _RESET)


@web.middleware
async def end_in_order(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """End the connection of an unframed answer in order once the whole answer was sent."""
    response = await handler(request)
    if request.transport is None or request.transport.is_closing():
        return response  # the handler aborted the answer, and its socket closes with a reset in a moment
    if response.prepared and _is_unframed(request, response):
        try:
            async with asyncio.timeout(bounds_of(request).reader_seconds):
                await _send_all(request, response)
        except (TimeoutError, ConnectionError):
            if request.transport:
                request.transport.abort()
            return response
        _end_in(request, _ORDERLY)
    return response


def _is_unframed(request: web.Request, response: web.StreamResponse) -> bool:
    """Return whether only the end of the connection ends an answer."""
    if request.method == hdrs.METH_HEAD or response.status in _BODILESS:
        return False
    return hdrs.CONTENT_LENGTH not in response.headers and hdrs.TRANSFER_ENCODING not in response.headers


async def _send_all(request: web.Request, response: web.StreamResponse) -> None:
    """Send the rest of an answer, and wait until the system has all of it.

    Raises:
        ConnectionError: the reader went away.
    """
    await response.write_eof()
    if request.transport is not None:
        request.transport.set_write_buffer_limits(0)  # drain waits for the last byte then
        await request.writer.drain()


def _end_in(request: web.Request, how: bytes) -> None:
    """Set the effect of closing the connection of a request."""
    sock = request.transport.get_extra_info("socket") if request.transport else None
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, how)
