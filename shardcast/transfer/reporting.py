"""What this node has, told to its upstreams, for whoever looks at ``/status`` there."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from random import Random

from shardcast.errors import PeerError
from shardcast.peer.peer import Peer
from shardcast.report import Node, write
from shardcast.transfer.following import Following

log = logging.getLogger(__name__)

_LOOK = 1.0
"""Seconds between two looks at whether there is anything new to tell."""
_PROGRESS = 5.0
"""Seconds between two reports of nothing but more bytes."""
_STILL_HERE = 15.0
"""Seconds between two reports without any news."""


async def report(
    following: Following,
    me: Callable[[], Node],
    below: Callable[[], Sequence[Node]] = lambda: (),
    clock: Callable[[], float] = time.monotonic,
    random: Random | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Report for ever, to all upstreams that have a feed. Many nodes do so: their reports are spread."""
    random = random or Random()
    told: tuple[Node, frozenset[str]] | None = None
    told_at = -_STILL_HERE
    while True:
        await sleep(_LOOK * random.uniform(0.5, 1.0))
        now, upstreams = me(), [one for one in following.followers if one.hello]
        named = frozenset(one.peer.url for one in upstreams)
        waited = clock() - told_at
        news = told is None or told[1] != named or told[0].has != now.has
        if news or waited >= (_PROGRESS if told and told[0] != now else _STILL_HERE):
            raw = write(now, below())
            await asyncio.gather(*(_tell(one.peer, raw) for one in upstreams))
            told, told_at = (now, named), clock()


async def _tell(peer: Peer, raw: bytes) -> None:
    try:
        await peer.report(raw)
    except PeerError as error:
        log.debug("not reported: %s", error)
