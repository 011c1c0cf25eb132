"""Reports to the upstreams: what this node has, and what the nodes below it have."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from shardcast.concurrency import cancel
from shardcast.errors import PeerError
from shardcast.peer.server import Peer
from shardcast.protocol.report import Node, encode_in_slices
from shardcast.server.downstream import Downstream
from shardcast.upstream.follow import Following

log = logging.getLogger(__name__)

_LOOK = 1.0
"""Longest pause, in seconds, between two checks for news: the delay that each hop adds to news."""
_PROGRESS = 5.0
"""Seconds between two reports that differ only in bytes under way or in the ages of nodes below."""
_STILL_HERE = 15.0
"""Seconds between two reports that say the same."""


@dataclass(frozen=True, slots=True)
class _Reported:
    """The last report to one upstream.

    Attributes:
        upstream: node id of the upstream; a restarted one has another id and knows nothing.
        me: this node, as it was reported.
        changes: ``Downstream.changes`` at the time.
        reports: ``Downstream.reports`` at the time.
        at: the time.
    """

    upstream: str
    me: Node
    changes: int
    reports: int
    at: float

    def is_old(self, now: _Reported) -> bool:
        """Return whether ``now``, the report that could be sent, is due."""
        if self.upstream != now.upstream or self.changes != now.changes:
            return True
        if (self.me.has, self.me.origin) != (now.me.has, now.me.origin):
            return True
        progress = self.me != now.me or self.reports != now.reports
        return now.at - self.at >= (_PROGRESS if progress else _STILL_HERE)


async def send_reports(
    following: Following,
    me: Callable[[], Node],
    downstream: Downstream | None = None,
    *,
    clock: Callable[[], float] = time.monotonic,
    random: Random | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Report for ever to each upstream that has a feed.

    A report goes out within a second after this node or a node below got or lost a version, else rarely. The
    pauses are random, so that the reports of many nodes spread.

    Args:
        following: the upstreams.
        me: describes this node now.
        downstream: the nodes below, where this node serves.
        clock: gives seconds; a test's, as are ``random`` and ``sleep``.
        random: spreads the pauses.
        sleep: pauses.
    """
    random = random or Random()
    reported: dict[str, _Reported] = {}
    sending: dict[str, asyncio.Task[None]] = {}  # an upstream that does not answer delays no other
    try:
        while True:
            await sleep(_LOOK * random.uniform(0.75, 1.0))
            node, raw = me(), b""
            for follower in following.followers:
                url = follower.peer.url
                if follower.hello is None or url in sending:
                    continue
                changes, reports = (downstream.changes, downstream.reports) if downstream else (0, 0)
                now = _Reported(follower.hello.node, node, changes, reports, clock())
                if url in reported and not reported[url].is_old(now):
                    continue
                raw = raw or await _written(node, downstream)
                reported[url] = now
                sending[url] = asyncio.ensure_future(_send(follower.peer, raw))
                sending[url].add_done_callback(partial(_forget, sending, url))
    finally:
        await cancel(list(sending.values()))


async def _written(me: Node, below: Downstream | None) -> bytes:
    """Return the report of a node, and let other tasks run between its portions."""
    raw = b""
    for portion in encode_in_slices(me, below.iter_nodes() if below else ()):
        raw += portion
        await asyncio.sleep(0)
    return raw


def _forget(sending: dict[str, asyncio.Task[None]], url: str, _: asyncio.Task[None]) -> None:
    del sending[url]


async def _send(peer: Peer, raw: bytes) -> None:
    """Send a report; a failure is only logged, since the next one tells everything again."""
    try:
        await peer.report(raw)
    except PeerError as error:
        log.debug("not reported: %s", error)
