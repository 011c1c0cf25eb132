"""Blobs arriving in parts ─▶ a store: small ones several at a time, since each waits for the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Self

from shardcast.blobs.framing import Part
from shardcast.blobs.interface import BlobStore, BlobWriter
from shardcast.concurrency import cancel

_SMALL = 1 << 20
"""Bytes of the largest blob held in memory until whole."""
_AT_ONCE = 8
"""Small blobs put at the same time."""


class BatchWriter:
    """A context to put blobs as their parts arrive.

    At the end of the context, every whole blob is stored, and an incomplete one is discarded. An error of
    ``BlobWriter`` is raised when a later part is taken, or at the end of the context.
    """

    def __init__(self, store: BlobStore, kept: Callable[[str, int], None]) -> None:
        """Put into ``store``, and call ``kept`` with the digest and length of each stored blob."""
        self._store = store
        self._kept = kept
        self._gathered = bytearray()
        self._stack = AsyncExitStack()
        self._writer: BlobWriter | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def write_part(self, part: Part) -> None:
        """Take the next part; the parts of a blob come in order, without parts of others in between.

        Raises:
            IntegrityError: this blob, or one before it, has another digest than its key.
            LocalDiskError: this blob, or one before it, can't be kept.
        """
        if part.length <= _SMALL:
            self._gathered += part.data
            if part.last:
                blob = bytes(self._gathered)
                self._gathered.clear()
                if len(self._tasks) >= _AT_ONCE:
                    await self._wait(asyncio.FIRST_COMPLETED)
                self._tasks.add(asyncio.ensure_future(self._put(part.key, blob)))
            return
        if self._writer is None:
            self._writer = await self._stack.enter_async_context(self._store.put(part.key or None))
        await self._writer.write(part.data)
        if part.last:
            digest = await self._writer.commit()
            await self._stack.aclose()
            self._writer = None
            self._kept(digest, part.length)

    async def _put(self, key: str, blob: bytes) -> None:
        """Put a small blob, and call ``kept``."""
        async with self._store.put(key or None) as writer:
            if blob:
                await writer.write(blob)
            self._kept(await writer.commit(), len(blob))

    async def _wait(self, until: str) -> None:
        """Wait for the puts of small blobs as ``asyncio.wait`` does, and raise their first error."""
        done, self._tasks = await asyncio.wait(self._tasks, return_when=until)
        for task in done:
            task.result()

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._stack.aclose()
            while self._tasks:  # also after another error: these blobs are whole
                await self._wait(asyncio.ALL_COMPLETED)
        finally:
            await cancel(self._tasks)
