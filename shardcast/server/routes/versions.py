"""The distribution list, manifests and shards of a Shelf: the essential routes of shardcast."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

from aiohttp import web

from shardcast.access.scopes import Scope
from shardcast.constants import LANDING_WAIT, MANIFEST_FILE
from shardcast.protocol.manifest import aborted_line
from shardcast.protocol.wire import (
    ACCEPT_HEADER,
    DISTRIBUTION_PATH,
    LANDING,
    NDJSON,
    PROBE_PATH,
    PROBE_SIZE,
    TEXT,
    VERSION_PATTERN,
    matches_if_match,
    shard_number,
)
from shardcast.server.scoped_routes import add_route
from shardcast.server.sending import send_landing, send_span
from shardcast.server.writing import PORTION, UNBUFFERED_HEADERS, write
from shardcast.store.interfaces import Shelf, Span
from shardcast.store.live_manifest import LiveManifest

_ANYWHERE = {"Access-Control-Allow-Origin": "*"}
_SHARD_PATTERN = r"shard_[0-9]{3,7}\.bin"
_NOT_NOW = {"Retry-After": "1"}
_PROBE = bytes(PROBE_SIZE)


def add_version_routes(app: web.Application, shelf: Shelf) -> None:
    """Serve the versions of a Shelf."""

    async def distribution(request: web.Request) -> web.StreamResponse:
        headers = {"Content-Type": TEXT, "Cache-Control": "no-cache", **_ANYWHERE}
        return web.Response(body=shelf.distribution(), headers=headers)

    async def manifest(request: web.Request) -> web.StreamResponse:
        version = request.match_info["version"]
        raw, live = shelf.manifest(version), shelf.live(version)
        if raw is None and live is None:
            raise web.HTTPNotFound(text=f"404: {version} is not here\n")
        response = web.StreamResponse(headers={"Content-Type": NDJSON, **UNBUFFERED_HEADERS, **_ANYWHERE})
        if live is None:
            return web.Response(body=raw, headers=response.headers)
        if live.error and not live.manifest:
            raise web.HTTPServiceUnavailable(text=f"503: {live.error}\n", headers=_NOT_NOW)
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        with contextlib.suppress(ConnectionError, TimeoutError):
            await _write_as_it_grows(request, response, live, shelf)
            return response
        if request.transport:
            request.transport.abort()
        return response

    async def shard(request: web.Request) -> web.StreamResponse:
        version, number = request.match_info["version"], shard_number(request.match_info["shard"])
        with shelf.reading(version, request.remote or "") as reader:
            span = _find_shard(shelf, version, number, request.headers.get("If-Match")) if number else None
            if (
                span is None
                and number
                and shelf.live(version)
                and request.headers.get(ACCEPT_HEADER) == LANDING
            ):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LANDING_WAIT):
                        await shelf.wait_for_shard(version, number)
                landing, span = shelf.landing(version, number), shelf.shard(version, number)
                if span is None and landing is not None:
                    return await send_landing(request, landing, reader)
                if span is None:
                    raise web.HTTPServiceUnavailable(
                        text="503: the shard is not here yet\n", headers=_NOT_NOW
                    )
            if span is None and shelf.in_doubt(version):
                raise web.HTTPServiceUnavailable(text="503: the shard is being verified\n", headers=_NOT_NOW)
            if span is None:
                raise web.HTTPNotFound(text=f"404: {version} has no such shard here\n")
            return await send_span(request, span, reader)

    async def probe(request: web.Request) -> web.StreamResponse:
        return web.Response(body=_PROBE)

    folder = f"/{{version:{VERSION_PATTERN}}}"
    add_route(app, "GET", DISTRIBUTION_PATH, distribution, scope=Scope.READ)
    add_route(app, "GET", f"{folder}/{MANIFEST_FILE}", manifest, scope=Scope.READ, stays_open=True)
    add_route(app, "GET", f"{folder}/{{shard:{_SHARD_PATTERN}}}", shard, scope=Scope.READ)
    add_route(app, "GET", PROBE_PATH, probe, scope=Scope.READ)


def _find_shard(shelf: Shelf, version: str, number: int, if_match: str | None) -> Span | None:
    """Return the bytes of a shard, of another line's version where ``If-Match`` names those; None for none.

    So a download goes on when this node changes over to another line in the middle.
    """
    span = shelf.shard(version, number)
    if if_match and (span is None or not matches_if_match(if_match, span.digest)):
        return shelf.shard_of_another_line(version, number, if_match) or span
    return span


async def _write_as_it_grows(
    request: web.Request, response: web.StreamResponse, live: LiveManifest, shelf: Shelf
) -> None:
    """Send the lines of a manifest as they come, until the version ends or the node does.

    Raises:
        ConnectionError: the reader went away.
        TimeoutError: the reader takes nothing.
    """
    sent = 0
    while True:
        lines = bytes(live.raw[sent : sent + PORTION])
        if lines:
            await write(request, response, lines)
            sent += len(lines)
        elif live.ended or shelf.events.closed:
            break
        else:
            await _wait_for_first(live.wait_for_more(sent), shelf.events.wait_closed())
    if live.aborted is not None:
        await write(request, response, aborted_line(live.aborted))
    await response.write_eof()


async def _wait_for_first(*waits: Coroutine[Any, Any, None]) -> None:
    """Wait until the first of several coroutines ends."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
