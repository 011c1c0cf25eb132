"""Heads of answers: a deadline for the whole head, however its bytes come, and a bound on their number.

A time-out between two bytes does not bound a head: a server with a byte now and then, or ``100 Continue``
again and again, never trips it. This module bounds the answers to requests by aiohttp; ``bounded_answers``
those to requests by ``http.client``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import aiohttp

from shardcast.concurrency import cancel
from shardcast.peer.pace import Upload

MAX_INFORMATIONAL = 100
"""Informational answers before the answer itself, where they are counted one by one."""


class HeadTimeout(Exception):
    """A head not whole in time.

    Attributes:
        seconds: the time that the server had.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no whole head of an answer within {seconds:g} s")
        self.seconds = seconds


async def read_head(
    asking: Coroutine[Any, Any, aiohttp.ClientResponse], seconds: float, upload: Upload | None = None
) -> aiohttp.ClientResponse:
    """Return the answer to a request with its whole head.

    Args:
        asking: the request.
        seconds: time for the head, from the request on, or anew from each portion of the ``upload`` taken by
            the server.
        upload: the body of the request, where long.

    Raises:
        HeadTimeout: the head was late.
    """
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(asking)
    started = loop.time()
    try:
        while not task.done():
            left = seconds + (upload.due_since(started) if upload else started) - loop.time()
            if left <= 0:
                raise HeadTimeout(seconds)
            await asyncio.wait([task], timeout=left)
    except BaseException:
        await cancel([task])
        if not task.cancelled() and task.exception() is None:  # the answer came at this very moment
            task.result().close()
        raise
    return task.result()


class CountedResponse(aiohttp.ClientResponse):
    """An answer of aiohttp with a bound on the informational answers (1xx) before it.

    A flood of them would keep the event loop parsing until the deadline.
    """

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        """Read the head, as aiohttp does, from a protocol that counts."""
        protocol = connection.protocol
        read, left = protocol.read, MAX_INFORMATIONAL + 1

        async def counted() -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise aiohttp.ClientError(
                    f"more than {MAX_INFORMATIONAL} informational answers (1xx) before the answer"
                )
            return await read()

        protocol.read = counted
        try:
            return await super().start(connection)
        finally:
            del protocol.read
