"""A client for threads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from shardcast.addresses import server_urls
from shardcast.api.background import Background
from shardcast.errors import NoServerReachable, ShardcastError, UsageError, VersionNotOffered
from shardcast.nodes.client import LATEST, Client, Release
from shardcast.protocol.distribution import Withdrawal, is_version

log = logging.getLogger("shardcast")

StrPath = str | os.PathLike[str]
Told = TypeVar("Told", Release, Withdrawal)


class Followed:
    """Versions that are followed in the background, until ``stop`` or the end of the ``with`` block."""

    def __init__(self, work: Background[None], calling: set[int]) -> None:
        """``calling``: the thread that is in the callback."""
        self._work = work
        self._calling = calling

    def stop(self) -> None:
        """Follow no more; returns when the callback has, unless that is what calls it. What has arrived is
        kept for the next time."""
        if threading.get_ident() in self._calling:
            self._work.tell_to_end()
        else:
            self._work.cancel()

    def wait(self, timeout: float | None = None) -> None:
        """Wait for its end, which comes only when it fails, or is stopped elsewhere.

        Raises:
            TimeoutError: it goes on after so many seconds.
            LocalDiskError: a file could not be written.
        """
        if not self._work.wait(timeout):
            raise TimeoutError(f"it goes on after {timeout:g} s")
        with contextlib.suppress(asyncio.CancelledError):
            self._work.result()

    def __enter__(self) -> Followed:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class ClientNode:
    """Downloads versions; the blocking form of ``Client``."""

    def __init__(
        self, servers: Sequence[str], output_dir: StrPath = "./downloads", *, origin_id: str | None = None
    ) -> None:
        """``origin_id``: the only line of versions to accept.

        Raises:
            UsageError: one of the servers is not an address, or there is none.
        """
        self.servers = server_urls(servers)
        self.output_dir = str(Path(output_dir).absolute())
        self._origin_id = origin_id

    def _client(self) -> Client:
        return Client(self.servers, self.output_dir, origin_id=self._origin_id)

    def list_available_versions(self) -> dict[str, str]:
        """The versions on offer, oldest first, each with ``<digest>|<number of shards>``; empty while
        there is nothing, also while no server can be reached yet, which is logged."""

        async def read() -> dict[str, str]:
            async with self._client() as client:
                return {one.version: one.value for one in await client.listings()}

        try:
            return Background(read()).result()
        except NoServerReachable as error:
            log.warning("%s", error)
            return {}

    def download_version(self, version: str, output_file: StrPath | None = None) -> str | None:
        """Download a version (``v3`` or ``latest``) and return the path of the verified file; None while
        no server offers it.

        Raises:
            ShardcastError: it is offered and could not be had; the type tells why.
        """

        async def download() -> str:
            async with self._client() as client:
                output = None if output_file is None else os.fspath(output_file)
                return str((await client.download(version, output)).path)

        try:
            return Background(download()).result()
        except VersionNotOffered as error:
            log.info("%s", error)
            return None

    def follow(
        self,
        callback: Callable[[Release], object],
        first: str = LATEST,
        every: bool = False,
        on_withdrawn: Callable[[Withdrawal], object] | None = None,
    ) -> Followed:
        """Download each new version from ``first`` on, in the background, and call ``callback`` with each
        one that is there and verified; see ``Client.follow``. The next one waits for it to return; what it
        raises is logged, and following goes on. ``on_withdrawn`` is called in the same way, never beside
        ``callback``, with each version that the publisher took back and that is here or was.

        Raises:
            UsageError: ``first`` is no version's name.
        """
        if first != LATEST and not is_version(first):
            raise UsageError(f"{first!r} is not a version; write v1, v2, … or {LATEST}")

        calling: set[int] = set()
        turn = asyncio.Lock()

        def call(callback: Callable[[Told], object], told: Told) -> None:
            calling.add(threading.get_ident())
            try:
                callback(told)
            except BaseException:
                log.exception("the callback for %s failed", told.version)
            finally:
                calling.clear()

        async def tell_withdrawn(withdrawal: Withdrawal) -> None:
            if on_withdrawn:
                async with turn:
                    await asyncio.to_thread(call, on_withdrawn, withdrawal)

        async def follow() -> None:
            async with (
                self._client() as client,
                contextlib.aclosing(client.follow(first, every, on_withdrawn=tell_withdrawn)) as releases,
            ):
                try:
                    async for release in releases:
                        async with turn:
                            await asyncio.to_thread(call, callback, release)
                except ShardcastError as error:
                    log.error("nothing is followed any more: %s", error)  # perhaps nobody waits
                    raise

        return Followed(Background(follow()), calling)

    @contextlib.contextmanager
    def lease(self, version: str) -> Iterator[None]:
        """Hold a version at the servers while the block runs, however many newer ones there are; remote
        holders can do so for ten minutes beyond its time.

        Raises:
            UsageError: that is no version's name.
            VersionNotOffered: no server holds it.
        """
        answered, held = threading.Event(), threading.Event()

        async def hold() -> None:
            try:
                async with self._client() as client, client.lease(version):
                    held.set()
                    answered.set()
                    await asyncio.Event().wait()
            finally:
                answered.set()

        holding = Background(hold())
        try:
            answered.wait()
            if not held.is_set():
                holding.result()
            yield
        finally:
            holding.cancel()
