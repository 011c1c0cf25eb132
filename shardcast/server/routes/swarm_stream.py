"""``GET /swarm`` with ``Upgrade``: a neighbour of a swarm opens a two-way stream of frames."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from shardcast.access.scopes import Scope
from shardcast.protocol.wire import SWARM_PATH, SWARM_PROTOCOL
from shardcast.server.scoped_routes import add_route
from shardcast.server.upgrade import upgrade

AcceptStream = Callable[[asyncio.Transport], Awaitable[None]]
"""A function to take a connection with ``SWARM_PROTOCOL`` at the other end; returns at the end of its stream.
"""


def add_swarm_stream_routes(
    app: web.Application, accept: AcceptStream, *, scope: Scope | None = None
) -> None:
    """Accept streams of neighbours.

    Args:
        app: the application.
        accept: takes each connection.
        scope: the required scope of a token; None where tickets alone decide.
    """

    async def open_stream(request: web.Request) -> web.StreamResponse:
        response, transport = await upgrade(request, SWARM_PROTOCOL)
        try:
            await accept(transport)
        finally:
            transport.abort()
        return response

    add_route(app, "GET", SWARM_PATH, open_stream, scope=scope, stays_open=scope is not None)
