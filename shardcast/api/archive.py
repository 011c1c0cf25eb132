"""Blocking client of an archive."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing

from shardcast.access.client_access import ClientAccess
from shardcast.access.credentials import Credentials
from shardcast.access.secret import Secret
from shardcast.access.tls import client_tls
from shardcast.addresses import server_url
from shardcast.api.background import Background
from shardcast.blobs.client import archive as peer
from shardcast.blobs.framing import MAX_KEYS
from shardcast.constants import HTTP_TIMEOUT
from shardcast.peer.session import open_session

_AHEAD = 4
"""Maximum batches (pull) or blobs (push) held between the caller's thread and the event loop."""
_POLL_INTERVAL = 0.2
"""Seconds between two looks at whether a push has ended early."""


class Archive:
    """Client for pulling blobs from an archive, Casa's or ours, and for pushing them.

    The blocking form of ``shardcast.blobs.client.archive.ArchiveClient``::

        archive = Archive("https://casa.example.org")
        for key, blob in archive.pull({key: length}):
            ...

    Attributes:
        url: base URL of the archive.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        keys_per_request: int = MAX_KEYS,
        timeout: float = HTTP_TIMEOUT,
        *,
        ca: str | os.PathLike[str] | None = None,
        client_certificate: str | os.PathLike[str] | None = None,
        client_key: str | os.PathLike[str] | None = None,
    ) -> None:
        """Remember the archive; send no request yet.

        Args:
            url: the archive's address.
            token: token to show to the archive; None for the one in ``SHARDCAST_TOKEN_FILE`` or
                ``SHARDCAST_TOKEN``.
            keys_per_request: maximum keys of a request.
            timeout: maximum seconds without progress.
            ca: file with the CAs to trust for an ``https://`` archive; None for the system's.
            client_certificate: file with the certificate to show to the archive if asked.
            client_key: file with the certificate's key; None if ``client_certificate`` also has the key.

        Raises:
            UsageError: ``url`` is no address, or not https while ``SHARDCAST_REQUIRE_TLS`` is set; or the
                environment's token is malformed.
            LocalDiskError: the environment's token file can't be read.
        """
        shown, token = None if token is None else Secret(token), None  # out of sight of tracebacks
        self.url = server_url(url)
        self._access = ClientAccess.from_environment(
            Credentials.for_all(shown) if shown else None, client_tls(ca, client_certificate, client_key)
        )
        self._access.check_server(self.url)
        self._keys = keys_per_request
        self._timeout = timeout

    def pull(self, wanted: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
        """Fetch blobs; those the archive lacks are skipped.

        Args:
            wanted: the keys (64 hexadecimal digits), each with the blob's length in bytes.

        Yields:
            A key and the verified blob, in the order of arrival.

        Raises:
            UsageError: a key or a length is malformed.
            WrongBytes: a blob's digest is not the key.
            PeerError: the archive can't be reached, or its answer is wrong.
        """
        arrived: queue.SimpleQueue[list[tuple[str, bytes]] | None] = queue.SimpleQueue()
        room = _CrossThreadSemaphore(_AHEAD)

        async def pull() -> None:
            try:
                async with open_session(self._timeout, self._access) as session:
                    client = peer.ArchiveClient(
                        self.url, session, keys_per_request=self._keys, timeout=self._timeout
                    )
                    async with aclosing(client.pull_batches(wanted)) as batches:
                        async for batch in batches:
                            await room.acquire()
                            arrived.put(batch)
            finally:
                arrived.put(None)

        work = Background(pull())
        try:
            while (batch := arrived.get()) is not None:
                yield from batch
                room.release()
            work.result()
        finally:
            work.cancel()

    def push(self, blobs: Iterable[peer.Blob]) -> list[str]:
        """Push blobs in one request; the archive stores all of them or none.

        Args:
            blobs: bytes, or paths of files; iterated in the caller's thread while the blobs are sent.

        Returns:
            The keys, in the order of the blobs.

        Raises:
            PayloadMissing: a file does not exist.
            LocalDiskError: a file can't be read.
            PayloadChanged: a file's size changed meanwhile.
            AccessDenied: the archive requires a token, or the token is wrong.
            PeerError: the archive can't be reached, or refuses the blobs.
        """
        outgoing: asyncio.Queue[peer.Blob | None] = asyncio.Queue()
        loops: list[asyncio.AbstractEventLoop] = []
        started, room = threading.Event(), threading.Semaphore(_AHEAD)

        async def each() -> AsyncGenerator[peer.Blob, None]:
            while (blob := await outgoing.get()) is not None:
                yield blob
                room.release()

        async def push() -> list[str]:
            loops.append(asyncio.get_running_loop())
            started.set()
            async with open_session(self._timeout, self._access) as session:
                client = peer.ArchiveClient(
                    self.url, session, keys_per_request=self._keys, timeout=self._timeout
                )
                return await client.push(each())

        work = Background(push())
        try:
            started.wait()
            for blob in blobs:
                while not room.acquire(timeout=_POLL_INTERVAL):
                    if work.wait(0):
                        return work.result()
                self._enqueue(loops[0], outgoing, blob)
            self._enqueue(loops[0], outgoing, None)
            return work.result()
        finally:
            work.cancel()

    @staticmethod
    def _enqueue(
        loop: asyncio.AbstractEventLoop, outgoing: asyncio.Queue[peer.Blob | None], blob: peer.Blob | None
    ) -> None:
        """Put a blob, or None for the end, into the queue of another thread's loop."""
        try:
            loop.call_soon_threadsafe(outgoing.put_nowait, blob)
        except RuntimeError:
            pass  # the loop is closed: the push has ended, and its result says why


class _CrossThreadSemaphore:
    """A semaphore acquired by a task and released by another thread."""

    def __init__(self, count: int) -> None:
        self._semaphore = asyncio.Semaphore(count)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def acquire(self) -> None:
        """Wait for a place, in the event loop."""
        self._loop = asyncio.get_running_loop()
        await self._semaphore.acquire()

    def release(self) -> None:
        """Give a place back, from another thread."""
        assert self._loop
        try:
            self._loop.call_soon_threadsafe(self._semaphore.release)
        except RuntimeError:
            pass  # the loop is closed, so no task waits
