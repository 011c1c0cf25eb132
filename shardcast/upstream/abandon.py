"""Abandon the fetching of a version without progress, or one withdrawn by its publisher."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from shardcast.concurrency import cancel
from shardcast.errors import ShardcastError, TransferFailed
from shardcast.upstream.follow import Following
from shardcast.upstream.lists import withdrawn_error

T = TypeVar("T")
Stop = Callable[[], ShardcastError | None]
"""Returns the reason to stop; None while there is none."""


class NoProgress(TransferFailed):
    """A version without progress, abandoned for another one."""


async def run_unless(
    stop: Stop,
    fetching: Coroutine[Any, Any, T],
    following: Following,
    after: float = 0.0,
) -> T:
    """Fetch a version, and return the result, unless ``stop`` returns a reason to end the fetch before.

    Args:
        stop: asked after ``after`` seconds, and whenever a server tells something.
        fetching: the fetch; cancelled when there is a reason to stop.
        following: the servers.
        after: seconds.

    Raises:
        ShardcastError: the reason, or the failure of the fetch.
    """
    task = asyncio.ensure_future(fetching)
    change: list[asyncio.Future[None]] = []
    try:
        await asyncio.wait([task], timeout=after)
        while not task.done():
            seen = following.changes
            if reason := stop():
                raise reason
            change = [asyncio.ensure_future(following.wait_for_change(seen))]
            waiting: list[asyncio.Future[Any]] = [task, *change]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            await cancel(change)
        return task.result()
    finally:
        await cancel([task, *change])


def if_withdrawn(following: Following, number: int, digest: str | None) -> Stop:
    """Return a ``Stop`` whose reason is the withdrawal of a version by its publisher.

    Args:
        following: the servers.
        number: the version.
        digest: of its payload, since another version may get the number; None for an open one.
    """

    def stop() -> ShardcastError | None:
        standing = following.standing()
        withdrawal = standing.withdrawals.get(number)
        if withdrawal is None or digest not in (None, withdrawal.digest) or number in standing.listed:
            return None
        return withdrawn_error(standing, number)

    return stop
