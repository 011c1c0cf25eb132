"""Servers whose feed a test decides, over a folder of real versions."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

from shardcast.protocol.distribution import Listing
from shardcast.protocol.feed import COMPLETE, Event, Hello, UpTo
from shardcast.protocol.wire import NDJSON
from tests.support.bad_servers import BadServer, Behaviour, Exchange

Trigger = tuple[threading.Event, Event]
"""Once a test sets the first, the second is told."""


def feed_behaviour(
    hello: Hello,
    listings: Sequence[Listing],
    *more: Event,
    later: Trigger | None = None,
) -> Behaviour:
    """Return the behaviour of a feed that sends versions as complete and stays open.

    Args:
        hello: the first line.
        listings: the versions, each sent as a complete one.
        more: events after them.
        later: an event of the feed, sent once its trigger is set.

    Returns:
        The behaviour; it sends a heartbeat every 50 ms.
    """

    async def behave(exchange: Exchange) -> None:
        await exchange.start(200, None, {"Content-Type": NDJSON})
        events = [Event(seq, COMPLETE, one.version, one) for seq, one in enumerate(listings, 1)]
        lines = [hello.line(), *(one.line() for one in (*events, *more)), UpTo(1000).line()]
        await exchange.send(b"".join(lines))
        sent = False
        while True:
            await asyncio.sleep(0.05)
            if later and later[0].is_set() and not sent:
                sent = True
                await exchange.send(later[1].line())
            await exchange.send(UpTo(1000 + sent).line())

    return behave


def origin_id(data_dir: Path) -> str:
    """Return the origin id of a data directory."""
    return (data_dir / ".shardcast" / "origin").read_text().strip()


class FeedServer(BadServer):
    """Server of versions with a feed that the test decides."""

    def set_feed(
        self,
        origin: str | None,
        listings: Sequence[Listing],
        *more: Event,
        distance: int = 0,
        chain: tuple[str, ...] | None = (),
        node: str = "bad0",
        later: Trigger | None = None,
    ) -> FeedServer:
        """Send this feed from now on, and return the server; see ``feed_behaviour``."""
        highest = max((one.number for one in listings), default=0)
        hello = Hello("feed", node, origin, distance, True, chain, False, highest)
        self.set("/feed*", feed_behaviour(hello, listings, *more, later=later))
        return self
