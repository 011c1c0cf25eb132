"""Stop fetching a version when there is a reason to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from shardcast.concurrency import cancel
from shardcast.errors import ShardcastError, TransferFailed
from shardcast.policy.standing import Standing
from shardcast.upstream.follow import Following
from shardcast.upstream.lists import withdrawn_error

T = TypeVar("T")
Stop = Callable[[], ShardcastError | None]
"""Gives the reason to stop; None while there is none."""
Offered = Mapping[int, Sequence[str]]
"""Versions, and the servers that have them."""


class NoProgress(TransferFailed):
    """A version is left for another one."""


def offered(following: Following) -> tuple[Standing, Offered, Offered]:
    """Return what to believe, the versions of the line that servers have whole, and those that are being
    made.

    Raises:
        NoServerReachable, TransferFailed: no server tells.
    """
    standing = following.heard()
    complete = {n: servers for n, servers in standing.group.complete.items() if n in standing.listed}
    opened = {number: [one.url for one in peers] for number, peers in following.opened().items()}
    return standing, complete, opened


async def unless(
    stop: Stop,
    fetching: Coroutine[Any, Any, T],
    following: Following,
    after: float = 0.0,
) -> T:
    """Fetch a version until ``stop`` gives a reason not to, which is asked for ``after`` so many seconds,
    and whenever a server tells something.

    Raises:
        ShardcastError: the reason.
    """
    task = asyncio.ensure_future(fetching)
    news: list[asyncio.Future[None]] = []
    try:
        await asyncio.wait([task], timeout=after)
        while not task.done():
            seen = following.changes
            if reason := stop():
                raise reason
            news = [asyncio.ensure_future(following.change(seen))]
            waiting: list[asyncio.Future[Any]] = [task, *news]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            await cancel(news)
        return task.result()
    finally:
        await cancel([task, *news])


def if_withdrawn(following: Following, number: int, digest: str | None) -> Stop:
    """Return the reason to stop that there is when a version is withdrawn; ``digest`` is None for one that
    is still being made."""

    def stop() -> ShardcastError | None:
        standing = following.standing()
        withdrawal = standing.withdrawals.get(number)
        if withdrawal is None or digest not in (None, withdrawal.digest) or number in standing.listed:
            return None
        return withdrawn_error(standing, number)

    return stop
