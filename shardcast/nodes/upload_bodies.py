"""The body of a request ─▶ a file or a pipe, written in a thread while the next bytes come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable

from shardcast.concurrency import in_thread, run_to_completion

Write = Callable[[bytearray], None]
"""Writes the next bytes; blocks."""

_BLOCK = 1 << 20
"""Maximum bytes gathered while a thread writes the ones before."""


async def write_through(chunks: AsyncIterable[bytes], write: Write) -> None:
    """Write a body while it comes; of a broken body, write the received part.

    Raises:
        ShardcastError: ``write`` failed.
        Exception: any exception of ``chunks``.
    """
    gathered = bytearray()
    writing: asyncio.Future[None] | None = None
    try:
        async for chunk in chunks:
            gathered += chunk
            if writing and (writing.done() or len(gathered) >= _BLOCK):
                await asyncio.shield(writing)
                writing = None
            if writing is None:
                writing, gathered = asyncio.ensure_future(in_thread(write, gathered)), bytearray()
    finally:
        await run_to_completion(_write_rest(writing, gathered, write))


async def _write_rest(writing: asyncio.Future[None] | None, gathered: bytearray, write: Write) -> None:
    """Wait for a running write, then write the bytes gathered meanwhile.

    Raises:
        ShardcastError: either write failed; the second is not tried after a failure of the first.
    """
    if writing:
        await writing
    if gathered:
        await in_thread(write, gathered)
