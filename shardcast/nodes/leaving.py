"""Who follows leaves a version of which nothing comes for another one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from shardcast.constants import STALL_WHEN_OTHERS_CAN
from shardcast.errors import TransferFailed
from shardcast.policy.lines import Line
from shardcast.store.tasks import cancel
from shardcast.transfer.following import Following

T = TypeVar("T")
Offered = Mapping[int, Sequence[str]]
"""Versions, and the servers that have them."""


class NothingComes(TransferFailed):
    """A version is left for another one."""


def known(following: Following) -> tuple[Sequence[Line], Offered, Offered]:
    """The lines of servers, and the versions of the first that are complete, and those that are open.

    Raises:
        NoServerReachable, TransferFailed: no server tells.
    """
    lines = following.offers().lines
    opened: Offered = {
        number: [one.url for one in peers] for number, peers in following.opened(lines[0]).items()
    }
    return lines, lines[0].complete, opened


async def unless(
    leave: Callable[[], bool], fetching: Coroutine[Any, Any, T], following: Following, version: str
) -> T:
    """Fetch a version, unless after a while there is reason to ``leave`` it; whenever there is news, that is
    looked at.

    Raises:
        NothingComes: there is.
    """
    task = asyncio.ensure_future(fetching)
    news: list[asyncio.Future[None]] = []
    try:
        await asyncio.wait([task], timeout=STALL_WHEN_OTHERS_CAN)
        while not task.done():
            if leave():
                raise NothingComes(f"nothing of {version} comes, and others have other versions")
            news = [asyncio.ensure_future(following.change(following.changes))]
            waiting: list[asyncio.Future[Any]] = [task, *news]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            await cancel(news)
        return task.result()
    finally:
        await cancel([task, *news])
