"""``GET /feed``: an open answer with events as they happen."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable

from aiohttp import web

from shardcast.access.scopes import Scope
from shardcast.constants import FEED_HEARTBEAT
from shardcast.protocol.feed import Event, Hello, Position, UpTo
from shardcast.protocol.wire import FEED_PATH, NDJSON
from shardcast.server.application import abort_on_silent_death
from shardcast.server.scoped_routes import add_route
from shardcast.server.writing import UNBUFFERED_HEADERS, write
from shardcast.store.events import Events
from shardcast.store.interfaces import Shelf

log = logging.getLogger(__name__)

_HEADERS = {"Content-Type": NDJSON, "Cache-Control": "no-store", **UNBUFFERED_HEADERS}


def add_feed_routes(
    app: web.Application, shelf: Shelf, node_id: str, position: Callable[[], Position]
) -> None:
    """Send the events of a Shelf's versions. ``position()`` returns the node's position in its network."""
    events = shelf.events

    def hello(now: bool) -> Hello:
        return position().hello(events.feed, node_id, now)

    async def feed(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=_HEADERS)
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        abort_on_silent_death(request)
        missed = _missed(request.query.get("after", ""), events)
        known, feed_id, seq = position(), events.feed, events.seq
        batch: Iterable[Event] = shelf.versions_now() if missed is None else missed
        events.open_feeds += 1
        try:
            begin = hello(now=missed is None).line()
            await _write(request, response, begin, *(event.line() for event in batch), UpTo(seq).line())
            while not events.closed:
                if events.seq == seq and position() == known:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(FEED_HEARTBEAT):
                            await events.wait_for_wake()
                new_line = events.feed != feed_id  # the node changed over to another line of versions
                events_since = shelf.versions_now() if new_line else events.events_after(seq)
                if events_since is None:
                    break  # this reader is too slow; its next request gets all versions
                lines = [event.line() for event in events_since]
                if new_line or position() != known:
                    known, feed_id = position(), events.feed
                    lines.insert(0, hello(now=new_line).line())
                seq = events.seq if new_line or not events_since else events_since[-1].seq
                await _write(request, response, *lines, UpTo(seq).line())
            await response.write_eof()
        except (TimeoutError, ConnectionError) as error:
            log.debug("the feed to %s ended: %s", request.remote, error or "it took nothing for too long")
            if request.transport:
                request.transport.abort()
        finally:
            events.open_feeds -= 1
        return response

    async def end(app: web.Application) -> None:
        events.close()

    add_route(app, "GET", FEED_PATH, feed, scope=Scope.READ, stays_open=True)
    app.on_shutdown.append(end)


def _missed(after: str, events: Events) -> list[Event] | None:
    """Return the events since ``<feed id>:<seq>``; None when the reader needs all versions."""
    feed, _, seq = after.partition(":")
    if feed != events.feed or not (seq.isascii() and seq.isdigit()) or len(seq) > 15:
        return None
    return events.events_after(int(seq))


async def _write(request: web.Request, response: web.StreamResponse, *lines: bytes) -> None:
    """Write lines at once."""
    await write(request, response, b"".join(lines))
