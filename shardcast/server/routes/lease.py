"""``GET /<version>/lease``: while the answer is open, the version stays.

The first line, ``{"lease": "v3"}``, grants the lease; ``{"held": "v3"}`` comes every few seconds, to tell
silence from death; ``{"ended": "why"}`` comes last when the version goes all the same.
"""

from __future__ import annotations

import asyncio
import json
import logging

from aiohttp import web

from shardcast.access.scopes import Scope
from shardcast.constants import FEED_HEARTBEAT
from shardcast.log_fields import about
from shardcast.plain_text import short_name
from shardcast.protocol.wire import NDJSON, VERSION_PATTERN
from shardcast.server.application import abort_on_silent_death
from shardcast.server.scoped_routes import add_route
from shardcast.server.writing import UNBUFFERED_HEADERS, write
from shardcast.store.interfaces import Shelf

log = logging.getLogger(__name__)

_MAX_NAME = 100
"""Characters of a holder's name."""


def add_lease_routes(app: web.Application, shelf: Shelf) -> None:
    """Grant leases on a Shelf's versions."""

    async def lease(request: web.Request) -> web.StreamResponse:
        version = request.match_info["version"]
        with shelf.leased(version, _holder(request)) as leased:
            if not leased:
                raise web.HTTPNotFound(text=f"404: {version} is not here\n")
            response = web.StreamResponse(headers={"Content-Type": NDJSON, **UNBUFFERED_HEADERS})
            await response.prepare(request)
            if request.method == "HEAD":  # grants no lease
                return response
            abort_on_silent_death(request)
            try:
                await _send_line(request, response, lease=version)
                await _hold(request, response, version, shelf)
                await response.write_eof()
            except (TimeoutError, ConnectionError) as error:
                log.debug(
                    "the lease of %s on %s ended: %s",
                    request.remote,
                    version,
                    error or "it took nothing",
                    extra=about(version=version),
                )
                if request.transport:
                    request.transport.abort()
            return response

    path = f"/{{version:{VERSION_PATTERN}}}/lease"
    add_route(app, "GET", path, lease, scope=Scope.READ, stays_open=True)


async def _hold(request: web.Request, response: web.StreamResponse, version: str, shelf: Shelf) -> None:
    """Send lines while the Shelf has the version and the node runs."""
    events = shelf.events
    sent_at = asyncio.get_running_loop().time()
    while not events.closed:
        if not shelf.has(version):
            await _send_line(request, response, ended=f"{version} has gone")
            return
        seconds = sent_at + FEED_HEARTBEAT - asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(seconds):
                await events.wait_after(events.seq)
        except TimeoutError:
            sent_at = asyncio.get_running_loop().time()
            await _send_line(request, response, held=version)


def _holder(request: web.Request) -> str:
    """Return the holder's address and name."""
    name = short_name(request.query.get("holder", ""), _MAX_NAME)
    return f"{request.remote} ({name})" if name else str(request.remote)


async def _send_line(request: web.Request, response: web.StreamResponse, **values: str) -> None:
    """Send a line."""
    await write(request, response, json.dumps(values).encode() + b"\n")
