"""``POST /finish`` and ``POST /copies`` on the data directory's Unix socket: wait for the nodes below.

``POST /finish`` with ``{"wait": null}``, or seconds, is answered with ``{"waiting": "v7: gpu3 lacks it"}`` at
each change, and with ``{"done": true}`` when the origin may end.

``POST /copies`` with ``{"version": "v7", "copies": 3}`` is answered with ``{"copies": 2}`` at each change,
and with ``{"done": true}`` when so many nodes have the version, or ``{"error": …}``.

The last line is repeated every 5 s. An answer without ``done`` or ``error`` at its end means the end of the
origin.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from shardcast.access.scopes import Scope
from shardcast.constants import FEED_HEARTBEAT
from shardcast.errors import ShardcastError, to_wire
from shardcast.json_text import parse_json
from shardcast.protocol.distribution import is_version
from shardcast.protocol.wire import COPIES_PATH, FINISH_PATH, MAX_FINISH_WAIT, NDJSON
from shardcast.server.bodies import malformed, read_body
from shardcast.server.scoped_routes import add_route
from shardcast.server.writing import write

_CHECK_SECONDS = 0.2
"""Seconds between two calls of a ``StatusLine``."""
_MAX_REQUEST = 4096
"""Bytes of a request."""
_DONE = {"done": True}

StatusLine = Callable[[], Mapping[str, Any] | None]
"""A function that returns the line about the awaited nodes; None when the wait is over."""


def add_waiting_routes(
    app: web.Application,
    finish: Callable[[float | None], Callable[[], str | None]],
    copies: Callable[[str, int], Callable[[], int]],
) -> None:
    """Answer waiting callers.

    Args:
        app: the application.
        finish: ``finish(wait)`` returns a function for the awaited nodes in words, None at the end.
        copies: ``copies(version, copies)`` returns a function for the number of nodes with the version.
    """
    ended = asyncio.Event()

    async def answer_finish(request: web.Request) -> web.StreamResponse:
        try:
            wait = parse_json(await read_body(request, _MAX_REQUEST))["wait"]
            if wait is not None and not 0 <= wait <= MAX_FINISH_WAIT:
                raise ValueError("no number of seconds")
            waiting = finish(wait)
        except (ValueError, KeyError, TypeError) as error:
            raise malformed(error) from None

        def look() -> Mapping[str, Any] | None:
            reason = waiting()
            return {"waiting": reason} if reason else None

        return await _answer(request, look, ended)

    async def answer_copies(request: web.Request) -> web.StreamResponse:
        try:
            values = parse_json(await read_body(request, _MAX_REQUEST))
            version, enough = values["version"], values["copies"]
            fits = isinstance(version, str) and is_version(version)
            if not fits or type(enough) is not int or enough < 1:
                raise ValueError("no version, or no number of copies")
        except (ValueError, KeyError, TypeError) as error:
            raise malformed(error) from None
        count, last = copies(version, enough), -1

        def look() -> Mapping[str, Any] | None:
            nonlocal last
            if last >= enough:
                return None
            last = count()
            return {"copies": last}

        return await _answer(request, look, ended)

    async def end(app: web.Application) -> None:
        ended.set()

    add_route(app, "POST", FINISH_PATH, answer_finish, scope=Scope.PUBLISH)
    add_route(app, "POST", COPIES_PATH, answer_copies, scope=Scope.PUBLISH)
    app.on_shutdown.append(end)


async def _answer(request: web.Request, look: StatusLine, ended: asyncio.Event) -> web.StreamResponse:
    """Send the lines from ``look``, until None, the caller goes away, or the node has ``ended``."""
    response = web.StreamResponse(headers={"Content-Type": NDJSON})
    await response.prepare(request)
    loop = asyncio.get_running_loop()
    sent: Mapping[str, Any] = {}
    sent_at = loop.time()
    try:
        while not ended.is_set() and request.transport and not request.transport.is_closing():
            try:
                line = look() or _DONE
            except ShardcastError as error:
                line = {"error": to_wire(error)}
            if line != sent or loop.time() - sent_at >= FEED_HEARTBEAT:
                await write(request, response, json.dumps(line).encode() + b"\n")
                sent, sent_at = line, loop.time()
            if "done" in line or "error" in line:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_SECONDS):
                    await ended.wait()
        await response.write_eof()
    except (TimeoutError, ConnectionError):
        pass  # the caller went away, or takes nothing
    return response
