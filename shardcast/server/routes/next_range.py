"""``POST /<version>/next``: the next range for a node, chosen by earlier hand-outs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Iterator
from typing import BinaryIO

from aiohttp import web

from shardcast.access.scopes import Scope
from shardcast.concurrency import background_task
from shardcast.errors import ShardcastError
from shardcast.log_fields import about
from shardcast.protocol.next_range import (
    MAX_REQUEST,
    NextRangeError,
    NotNow,
    not_now_headers,
    parse_request,
    range_headers,
)
from shardcast.protocol.piece_numbers import PieceRun
from shardcast.protocol.wire import BYTES, VERSION_PATTERN
from shardcast.server.announcer_address import announcer_address, reached_address
from shardcast.server.bodies import read_body
from shardcast.server.connections import CONNECTIONS
from shardcast.server.file_sender import FileSender
from shardcast.server.hand_outs import HandOuts, NothingNow
from shardcast.server.held_requests import HeldRequests
from shardcast.server.scoped_routes import add_route
from shardcast.server.upload_limit import admit
from shardcast.server.version_book import GrantedRange, ReportIncomplete
from shardcast.store.holds import Reader
from shardcast.store.interfaces import Shelf

log = logging.getLogger(__name__)

_TIDY_SECONDS = 5.0
"""Seconds between two looks for unused ledgers and nodes."""
_UNCACHED = {"Cache-Control": "no-store"}
_NOT_READABLE = NothingNow(NotNow.PAUSE, 0.05)
_STATUSES = {NotNow.ABSENT: 404, NotNow.BUSY: 503}


def add_next_range_routes(app: web.Application, shelf: Shelf, hand_outs: HandOuts) -> None:
    """Hand out ranges of a Shelf's versions."""
    held = HeldRequests(hand_outs)

    async def next_range(request: web.Request) -> web.StreamResponse:
        version = request.match_info["version"]
        try:
            asked = parse_request(await read_body(request, MAX_REQUEST))
            seen, here = announcer_address(request), reached_address(request)
            chosen = await held.next_for(version, asked, seen=seen, here=here)
        except NextRangeError as error:
            raise web.HTTPBadRequest(text=f"400: {error}\n") from None
        except ReportIncomplete:
            text = "409: fewer pieces were told than counted; tell all\n"
            return web.Response(status=409, text=text, headers=_UNCACHED)
        if isinstance(chosen, NothingNow):
            return _refuse(chosen)
        sent = 0
        try:
            with shelf.reading(version, request.remote or "") as reader:
                reader.handed_out = True
                try:
                    return await _send(request, shelf, version, chosen, reader)
                finally:
                    sent = reader.sent
        finally:
            hand_outs.end(asked.asker, sent)

    async def tidying(app: web.Application) -> AsyncIterator[None]:
        async with background_task(_tidy(hand_outs)), background_task(held.run()):
            yield

    async def end(app: web.Application) -> None:
        held.end()

    app.on_shutdown.append(end)
    app.cleanup_ctx.append(tidying)
    add_route(app, "POST", f"/{{version:{VERSION_PATTERN}}}/next", next_range, scope=Scope.READ)


async def _tidy(hand_outs: HandOuts) -> None:
    """Drop unused ledgers and nodes, again and again."""
    while True:
        await asyncio.sleep(_TIDY_SECONDS)
        hand_outs.tidy()


def _refuse(refusal: NothingNow) -> web.Response:
    """Answer without bytes for now."""
    status = _STATUSES.get(refusal.reason, 204)
    text = None if status == 204 else f"{status}: {refusal.reason.value}\n"
    headers = not_now_headers(refusal.reason, refusal.seconds, refusal.claims) | _UNCACHED
    return web.Response(status=status, text=text, headers=headers)


async def _send(
    request: web.Request, shelf: Shelf, version: str, granted: GrantedRange, reader: Reader
) -> web.StreamResponse:
    """Send pieces; take them back when they don't leave whole, or the reader breaks the connection.

    Pieces that can't be read are taken back, and the answer asks the node to come again.
    """
    run = granted.run
    headers = range_headers(run, granted.size, granted.digest) | _UNCACHED | {"Content-Type": BYTES}
    response = web.StreamResponse(status=206, headers=headers)
    response.content_length = run.length
    try:
        request.app[CONNECTIONS].watch_of(request).on_reset = granted.take_back
        with contextlib.ExitStack() as stack:
            try:
                file, base = stack.enter_context(_opened(shelf, version, run))
            except OSError as error:
                log.debug(
                    "%s shard %d can't be handed out: %s",
                    version,
                    run.shard,
                    error,
                    extra=about(version=version, shard=run.shard),
                )
                granted.cannot_be_read()
                return _refuse(_NOT_READABLE)
            await admit(request)
            await response.prepare(request)
            await FileSender(request, response, file, reader).send(base + run.offset, run.length)
            await response.write_eof()
    except (TimeoutError, ConnectionError, ShardcastError) as error:
        log.debug(
            "%s did not get all of its range of %s: %s",
            request.remote,
            version,
            error,
            extra=about(version=version),
        )
        granted.take_back()
        if request.transport:
            request.transport.abort()
    except BaseException:
        granted.take_back()
        raise
    return response


@contextlib.contextmanager
def _opened(shelf: Shelf, version: str, run: PieceRun) -> Iterator[tuple[BinaryIO, int]]:
    """Open the file of a local or arriving shard, with the shard's offset in the file.

    Raises:
        OSError: the shard is gone, was cut short, or can't be read.
    """
    span = shelf.shard(version, run.shard)
    if span is not None:
        with span.path.open("rb", buffering=0) as file:
            if file.seek(0, os.SEEK_END) < span.offset + run.end:
                raise OSError(f"{span.path} was cut short")
            yield file, span.offset
        return
    landing = shelf.landing(version, run.shard)
    if landing is None:
        raise FileNotFoundError("it is not here")
    with landing.opened() as opened:
        yield opened
