"""Downloads of a blocking client, shared in the background by one client with one listener."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future

from shardcast.api.background import Background
from shardcast.nodes.client import Client, Release
from shardcast.progress import OnProgress


class Seeding:
    """Downloads and sharing of a blocking client, in a thread that ends with the last shared version."""

    def __init__(self, make: Callable[[], Client], seconds: float) -> None:
        """Run nothing yet.

        Args:
            make: returns a new client.
            seconds: duration of sharing a version after its download.
        """
        self._make = make
        self._seconds = seconds
        self._lock = threading.Lock()
        self._run: _Run | None = None

    def download(
        self, version: str, output: str | None, offline: bool, progress: OnProgress | bool
    ) -> Release:
        """Download a version, and share it afterwards; an interrupt of the wait cancels the download.

        Raises:
            ShardcastError: as for ``Client.download``; or the listener cannot be opened.
        """
        with self._lock:
            if self._run is None or not self._run.enter():
                self._run = _Run(self._make(), self._seconds)
            run = self._run
        return run.download(version, output, offline, progress)

    def stop(self) -> None:
        """Stop sharing. A running download goes on, and shares until its end."""
        with self._lock:
            run = self._run
        if run is not None:
            run.stop_seeding()


class _Run:
    """One client, from its first download to the end of sharing; begins with one user, its creator."""

    def __init__(self, client: Client, seconds: float) -> None:
        self._client = client
        self._seconds = seconds
        self._lock = threading.Lock()
        self._users = 1  # downloads that are under way or shared on; 0 for good
        self._downloads = 1
        self._opened = Future[asyncio.AbstractEventLoop]()
        self._seeds: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()
        self._background = Background(self._work())

    def enter(self) -> bool:
        """Count one more download as user of the client; return False if the client has ended."""
        with self._lock:
            if not self._users:
                return False
            self._users += 1
            self._downloads += 1
            return True

    def _leave(self) -> None:
        """Count one user less, a download or the sharing after it; the last one ends the client."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._over.set()

    async def _work(self) -> None:
        """Keep the client open until its last user leaves."""
        try:
            async with self._client:
                self._opened.set_result(asyncio.get_running_loop())
                await self._over.wait()
        except BaseException as error:
            if self._opened.done():
                raise
            with self._lock:
                self._users = 0
            self._opened.set_exception(error)

    def download(
        self, version: str, output: str | None, offline: bool, progress: OnProgress | bool
    ) -> Release:
        """Download a version in the client's loop."""
        loop = self._opened.result()
        downloading = asyncio.run_coroutine_threadsafe(
            self._download(version, output, offline, progress), loop
        )
        try:
            return downloading.result()
        except BaseException:
            downloading.cancel()
            raise

    async def _download(
        self, version: str, output: str | None, offline: bool, progress: OnProgress | bool
    ) -> Release:
        """Download a version, and begin to share it."""
        try:
            release = await self._client.download(version, output, offline=offline, progress=progress)
        except BaseException:
            self._end_download()
            self._leave()
            raise
        seed = asyncio.ensure_future(self._client.seed(self._seconds))
        self._seeds.add(seed)
        seed.add_done_callback(self._end_seed)
        self._end_download()
        return release

    def _end_download(self) -> None:
        with self._lock:
            self._downloads -= 1

    def _end_seed(self, seed: asyncio.Task[None]) -> None:
        self._seeds.discard(seed)
        self._leave()

    def stop_seeding(self) -> None:
        """Stop sharing; wait for the listener's end, unless a download uses the listener."""
        try:
            loop = self._opened.result()
            loop.call_soon_threadsafe(self._cancel_seeds)
        except (RuntimeError, CancelledError):
            return  # the loop has just ended
        with self._lock:
            uses = self._downloads
        if not uses:
            self._background.wait()

    def _cancel_seeds(self) -> None:
        for seed in self._seeds:
            seed.cancel()
