"""The door for those who want to be told: an answer that stays open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from aiohttp import web

from shardcast.constants import FEED_HEARTBEAT, STALLED_READER
from shardcast.feed import Event, Hello, Known
from shardcast.server.listening import notice_death
from shardcast.store.events import Events
from shardcast.store.shelf import Shelf
from shardcast.wire import FEED_PATH, NDJSON

log = logging.getLogger(__name__)

_HEADERS = {"Content-Type": NDJSON, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""The last one keeps nginx from holding lines back."""


def add_feed(
    app: web.Application, shelf: Shelf, node_id: str, place: Callable[[], tuple[str | None, int | None]]
) -> None:
    """Tell of what happens to a Shelf's versions. ``place()``: the origin id, and the hops to the origin."""
    events = shelf.events

    def hello(now: bool) -> Hello:
        return Hello(events.feed, node_id, *place(), now)

    async def feed(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=_HEADERS)
        await response.prepare(request)
        notice_death(request)
        missed = _missed(request.query.get("after", ""), events)
        known, seq = place(), events.seq
        told: Iterable[Event] = shelf.versions_now() if missed is None else missed
        events.feeds += 1
        try:
            begin = hello(now=missed is None).line()
            await _write(response, begin, *(event.line() for event in told), Known(seq).line())
            while not events.closed:
                try:
                    await asyncio.wait_for(events.change(seq), FEED_HEARTBEAT)
                except asyncio.TimeoutError:
                    pass
                news = events.since(seq)
                if news is None:
                    break  # too slow; asking again it is told everything
                lines = [event.line() for event in news]
                if place() != known:
                    known = place()
                    lines.insert(0, hello(now=False).line())
                seq = news[-1].seq if news else seq
                await _write(response, *lines, Known(seq).line())
            await response.write_eof()
        except (ConnectionError, asyncio.TimeoutError) as error:
            log.debug("%s follows no more: %s", request.remote, error or "it took nothing for too long")
            if request.transport:
                request.transport.abort()
        finally:
            events.feeds -= 1
        return response

    async def end(app: web.Application) -> None:
        events.close()

    app.router.add_get(FEED_PATH, feed, allow_head=False)
    app.on_shutdown.append(end)


def _missed(after: str, events: Events) -> list[Event] | None:
    """The events since ``<feed id>:<seq>``; None when everything is to be told."""
    feed, _, seq = after.partition(":")
    if feed != events.feed or not (seq.isascii() and seq.isdigit()) or len(seq) > 15:
        return None
    return events.since(int(seq))


async def _write(response: web.StreamResponse, *lines: bytes) -> None:
    await asyncio.wait_for(response.write(b"".join(lines)), STALLED_READER)
