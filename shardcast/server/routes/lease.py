"""The door for those who need a version for longer: while the answer is open, the version stays.

The first line, ``{"lease": "v3"}``, says that it does; ``{"held": "v3"}`` comes every few seconds, so that
silence is told from death; ``{"ended": "why"}`` comes last when the version goes all the same.
"""

from __future__ import annotations

import asyncio
import json
import logging

from aiohttp import web

from shardcast.constants import FEED_HEARTBEAT
from shardcast.plain_text import short_name
from shardcast.protocol.wire import NDJSON, VERSION_PATTERN
from shardcast.server.application import notice_death
from shardcast.server.writing import UNBUFFERED, write
from shardcast.store.interfaces import Shelf

log = logging.getLogger(__name__)

_LONGEST_NAME = 100
"""Characters of what a holder calls itself."""


def add_lease(app: web.Application, shelf: Shelf) -> None:
    """Hold a Shelf's versions for who asks."""

    async def lease(request: web.Request) -> web.StreamResponse:
        version = request.match_info["version"]
        with shelf.leased(version, _who(request)) as leased:
            if not leased:
                raise web.HTTPNotFound(text="404: no such version\n")
            response = web.StreamResponse(headers={"Content-Type": NDJSON, **UNBUFFERED})
            await response.prepare(request)
            if request.method == "HEAD":  # holds nothing
                return response
            notice_death(request)
            try:
                await _say(request, response, lease=version)
                await _hold(request, response, version, shelf)
                await response.write_eof()
            except (TimeoutError, ConnectionError) as error:
                log.debug("%s holds %s no more: %s", request.remote, version, error or "it took nothing")
                if request.transport:
                    request.transport.abort()
            return response

    app.router.add_get(f"/{{version:{VERSION_PATTERN}}}/lease", lease)


async def _hold(request: web.Request, response: web.StreamResponse, version: str, shelf: Shelf) -> None:
    events = shelf.events
    heard = asyncio.get_running_loop().time()
    while not events.closed:
        if not shelf.has(version):
            await _say(request, response, ended=f"{version} has gone")
            return
        left = heard + FEED_HEARTBEAT - asyncio.get_running_loop().time()
        try:
            await asyncio.wait_for(events.change(events.seq), left)
        except TimeoutError:
            heard = asyncio.get_running_loop().time()
            await _say(request, response, held=version)


def _who(request: web.Request) -> str:
    """Its address, and what it calls itself."""
    name = short_name(request.query.get("holder", ""), _LONGEST_NAME)
    return f"{request.remote} ({name})" if name else str(request.remote)


async def _say(request: web.Request, response: web.StreamResponse, **said: str) -> None:
    await write(request, response, json.dumps(said).encode() + b"\n")
