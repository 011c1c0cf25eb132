"""An archive for threads."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing

from shardcast.addresses import server_url
from shardcast.api.background import Background
from shardcast.blobs.client import archive as peer
from shardcast.blobs.framing import MAX_KEYS
from shardcast.constants import HTTP_TIMEOUT
from shardcast.peer.session import open_session

_AHEAD = 4
"""What comes, or goes out, in one go: so many of these are held at once."""
_LOOK = 0.2
"""Seconds between two looks at whether the work behind has ended."""


class Archive:
    """Pulls blobs from an archive, Casa's or ours, and pushes them; the blocking form of
    ``shardcast.blobs.client.archive.ArchiveClient``::

        archive = Archive("https://casa.example.org")
        for key, blob in archive.pull({key: length}):
            ...
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        keys_per_request: int = MAX_KEYS,
        timeout: float = HTTP_TIMEOUT,
    ) -> None:
        """``token``: what it takes to push beside the port. ``timeout``: seconds without progress.

        Raises:
            UsageError: that is no address.
        """
        self.url = server_url(url)
        self._token = token
        self._keys = keys_per_request
        self._timeout = timeout

    def pull(self, wanted: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
        """The blobs of these keys (64 hex digits) and lengths that the archive has, verified, as they come;
        the others are left out.

        Raises:
            UsageError: something is no key, or no length.
            WrongBytes: a blob is not what its key says.
            PeerError: the archive can't be asked, or the answer is wrong.
        """
        came: queue.SimpleQueue[list[tuple[str, bytes]] | None] = queue.SimpleQueue()
        room = _Room(_AHEAD)

        async def pull() -> None:
            try:
                async with open_session(self._timeout) as session:
                    there = peer.ArchiveClient(
                        self.url, session, self._token, keys_per_request=self._keys, timeout=self._timeout
                    )
                    async with aclosing(there.pull_some(wanted)) as batches:
                        async for batch in batches:
                            await room.take()
                            came.put(batch)
            finally:
                came.put(None)

        work = Background(pull())
        try:
            while (batch := came.get()) is not None:
                yield from batch
                room.give()
            work.result()
        finally:
            work.cancel()

    def push(self, blobs: Iterable[peer.Blob]) -> list[str]:
        """Put blobs, bytes or files (paths), in one request: all of them, or none. Returns their keys, in
        order. ``blobs`` is iterated here, in this thread, as they go out.

        Raises:
            PayloadMissing, LocalDiskError: a file can't be read.
            PayloadChanged: one became shorter or longer meanwhile, or does not end where its size says.
            PeerError: the archive can't be reached, or doesn't take them.
        """
        going: asyncio.Queue[peer.Blob | None] = asyncio.Queue()
        loops: list[asyncio.AbstractEventLoop] = []
        begun, room = threading.Event(), threading.Semaphore(_AHEAD)

        async def each() -> AsyncGenerator[peer.Blob, None]:
            while (blob := await going.get()) is not None:
                yield blob
                room.release()

        async def push() -> list[str]:
            loops.append(asyncio.get_running_loop())
            begun.set()
            async with open_session(self._timeout) as session:
                there = peer.ArchiveClient(
                    self.url, session, self._token, keys_per_request=self._keys, timeout=self._timeout
                )
                return await there.push(each())

        work = Background(push())
        try:
            begun.wait()
            for blob in blobs:
                while not room.acquire(timeout=_LOOK):
                    if work.wait(0):
                        return work.result()
                self._hand(loops[0], going, blob)
            self._hand(loops[0], going, None)
            return work.result()
        finally:
            work.cancel()

    @staticmethod
    def _hand(
        loop: asyncio.AbstractEventLoop, going: asyncio.Queue[peer.Blob | None], blob: peer.Blob | None
    ) -> None:
        try:
            loop.call_soon_threadsafe(going.put_nowait, blob)
        except RuntimeError:
            pass  # it has ended, and says why when it is asked for its result


class _Room:
    """A semaphore that is taken in an event loop and given back by another thread."""

    def __init__(self, count: int) -> None:
        self._semaphore = asyncio.Semaphore(count)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def take(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._semaphore.acquire()

    def give(self) -> None:
        assert self._loop
        try:
            self._loop.call_soon_threadsafe(self._semaphore.release)
        except RuntimeError:
            pass  # nobody takes any more
