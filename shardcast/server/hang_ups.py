"""Work for a request, ended when the client hangs up.

aiohttp continues a request whose connection is gone, and notices only when it sends the answer. Handlers with
long work before the answer (hashing a shard, waiting for an upload) run the work here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from aiohttp import web

from shardcast.concurrency import cancel

T = TypeVar("T")

_CHECK_SECONDS = 0.25
"""Seconds between two checks of the connection."""


async def while_connected(request: web.Request, work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` while the client is connected, and return its result.

    Raises:
        ConnectionResetError: the client hung up; the work was cancelled, and has ended.
    """
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait([task], timeout=_CHECK_SECONDS))[0]:
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError("the client hung up before it was answered")
        return task.result()
    finally:
        await cancel([task])


@asynccontextmanager
async def open_while_connected(
    request: web.Request, opening: AbstractAsyncContextManager[T]
) -> AsyncIterator[T]:
    """Enter a context manager with a long entry, while the client is connected.

    Raises:
        ConnectionResetError: the client hung up.
    """
    async with AsyncExitStack() as stack:
        yield await while_connected(request, stack.enter_async_context(opening))
