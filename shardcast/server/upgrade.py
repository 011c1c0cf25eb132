"""Connections leaving HTTP by ``Upgrade`` (RFC 9110, 7.8) for another protocol."""

from __future__ import annotations

import asyncio

from aiohttp import hdrs, web

from shardcast.plain_text import one_line
from shardcast.server.bounds import bounds_of

_POLL_SECONDS = 0.005
_MAX_NAME = 60


def asks_upgrade(request: web.Request, protocol: str) -> bool:
    """Return whether a request asks for a protocol."""
    tokens = (token.strip().lower() for token in request.headers.get(hdrs.CONNECTION, "").split(","))
    offered = (name.strip() for name in request.headers.get(hdrs.UPGRADE, "").split(","))
    return "upgrade" in tokens and protocol in offered


async def upgrade(request: web.Request, protocol: str) -> tuple[web.StreamResponse, asyncio.Transport]:
    """Switch to a protocol, and return the answer and the connection, without unsent bytes.

    The client sends nothing before it has the answer.

    Raises:
        HTTPUpgradeRequired: the request asks for none, or for another one.
        ConnectionError: the client went away.
    """
    if not asks_upgrade(request, protocol):
        asked = one_line(request.headers.get(hdrs.UPGRADE, "nothing"), _MAX_NAME)
        raise web.HTTPUpgradeRequired(
            text=f"426: this path is for {protocol}, not {asked}\n",
            headers={hdrs.UPGRADE: protocol, hdrs.CONNECTION: "Upgrade"},
        )
    response = web.StreamResponse(status=101, headers={hdrs.UPGRADE: protocol, hdrs.CONNECTION: "Upgrade"})
    await response.prepare(request)
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client went away")
    try:
        async with asyncio.timeout(bounds_of(request).reader_seconds):
            while transport.get_write_buffer_size():  # noqa: ASYNC110  no event tells of the last byte
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        transport.abort()
        raise ConnectionResetError("the client took nothing") from None
    return response, transport
