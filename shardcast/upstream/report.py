"""Reports to the upstreams: the versions of this node, and of the nodes below."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from shardcast.concurrency import cancel
from shardcast.errors import AccessDenied, PeerError
from shardcast.peer.server import Peer
from shardcast.protocol.report import Node, encode_in_slices
from shardcast.server.downstream import Downstream
from shardcast.upstream.follow import Following

log = logging.getLogger(__name__)

_LOOK = 1.0
"""Longest pause, in seconds, between two checks for news: the delay of news at each hop."""
_PROGRESS = 5.0
"""Seconds between two reports with no difference but bytes under way or ages of nodes below."""
_DENIED = 60.0
"""Seconds until the next report to an upstream after its refusal."""
_STILL_HERE = 15.0
"""Seconds between two equal reports."""


@dataclass(frozen=True, slots=True)
class _Reported:
    """The last report to one upstream.

    Attributes:
        upstream: node id of the upstream; a restarted one has another id and knows nothing.
        me: this node, as reported.
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
        """Return whether ``now``, the next possible report, is due."""
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
    """Report for ever to each upstream with a feed.

    A report goes out within a second after this node or a node below got or lost a version, else rarely. The
    pauses are random, to spread the reports of many nodes. A refusing upstream is logged once, and rarely
    asked again.

    Args:
        following: the upstreams.
        me: describes this node now.
        downstream: the nodes below a serving node.
        clock: gives seconds; a test's, as are ``random`` and ``sleep``.
        random: spreads the pauses.
        sleep: pauses.
    """
    random = random or Random()
    reported: dict[str, _Reported] = {}
    denials = _Denials(clock)
    sending: dict[str, asyncio.Task[None]] = {}  # an upstream that does not answer delays no other
    try:
        while True:
            await sleep(_LOOK * random.uniform(0.75, 1.0))
            node, raw = me(), b""
            for follower in following.followers:
                url = follower.peer.url
                if follower.hello is None or url in sending or denials.rests(url):
                    continue
                changes, reports = (downstream.changes, downstream.reports) if downstream else (0, 0)
                now = _Reported(follower.hello.node, node, changes, reports, clock())
                if url in reported and not reported[url].is_old(now):
                    continue
                raw = raw or await _written(node, downstream)
                reported[url] = now
                sending[url] = asyncio.ensure_future(_send(follower.peer, raw, denials))
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


class _Denials:
    """The refusals of reports by upstreams: reasons and times."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._refused: dict[str, tuple[str, float]] = {}

    def rests(self, url: str) -> bool:
        """Return whether an upstream refused a report just now."""
        return url in self._refused and self._clock() - self._refused[url][1] < _DENIED

    def refused(self, url: str, why: AccessDenied) -> None:
        """Record an upstream's refusal of a report, and log a new reason."""
        if url not in self._refused or self._refused[url][0] != str(why):
            log.warning(
                "the versions of this node are not reported to a server, which changes nothing else: %s", why
            )
        self._refused[url] = str(why), self._clock()

    def took(self, url: str) -> None:
        """Record a report taken by an upstream."""
        self._refused.pop(url, None)


async def _send(peer: Peer, raw: bytes, denials: _Denials) -> None:
    """Send a report; a failure is only logged, since the next one tells everything again."""
    try:
        await peer.report(raw)
        denials.took(peer.url)
    except AccessDenied as error:
        denials.refused(peer.url, error)
    except PeerError as error:
        log.debug("not reported: %s", error)
