"""Broadcasts into a data directory: each has its number at once, one is cut at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from shardcast.concurrency import cancel
from shardcast.constants import SHARD_SIZE
from shardcast.disk_errors import disk_errors
from shardcast.errors import ShardcastError, UsageError
from shardcast.protocol.manifest import Manifest, check_metadata, piece_size_for
from shardcast.protocol.wire import version_name
from shardcast.sharding.publication import (
    Cancelled,
    PayloadDescription,
    PublishProgress,
    ReserveBytes,
    freely,
)
from shardcast.sharding.publishing import check_payload, publish, publish_stream
from shardcast.sizes import format_count, format_size
from shardcast.store.open_version import OpenVersion
from shardcast.store.versions import VersionFolders

log = logging.getLogger(__name__)

Cut = Callable[[OpenVersion, PublishProgress, ReserveBytes], Manifest]
"""Cuts a payload into an open version, in a thread."""
Confirm = Callable[[], Awaitable[None]]
"""Awaited before a version becomes complete; raises where its caller does not wait for it any more."""


class PendingBroadcast:
    """One payload on its way to becoming a version.

    Attributes:
        version: its name, ``v7``, fixed from the start.
    """

    def __init__(self, version: str) -> None:
        self.version = version
        self.state = PublishProgress()
        self.task: asyncio.Task[None] | None = None
        self._called_off = asyncio.Event()

    def progress(self) -> Mapping[str, Any]:
        """``size`` (None while it waits its turn) and ``done`` in bytes, ``shards`` that are whole."""
        return {"size": self.state.size, "done": self.state.done, "shards": self.state.shards}

    def end(self, size: int) -> None:
        """A stream has so many bytes."""
        self.state.size = size

    def cancel(self) -> None:
        """Give it up, unless it is complete."""
        self.state.cancelled = True
        self._called_off.set()

    async def confirmed(self, confirm: Confirm | None) -> None:
        """Return when its caller has confirmed that it shall be complete.

        Raises:
            Cancelled: it was given up meanwhile.
            ShardcastError: the caller has gone.
        """
        asking = asyncio.ensure_future(confirm() if confirm else asyncio.sleep(0))
        called_off = asyncio.ensure_future(self._called_off.wait())
        try:
            await asyncio.wait({asking, called_off}, return_when=asyncio.FIRST_COMPLETED)
            if self.state.cancelled:
                raise Cancelled(f"{self.version} was called off")
            asking.result()
        finally:
            await cancel([asking, called_off])
            if not asking.cancelled():
                asking.exception()  # else it is told of as never looked at
            if not asking.cancelled():
                asking.exception()  # else it is told of as never looked at

    async def result(self) -> None:
        """Wait until the version is complete.

        Raises:
            ShardcastError: it failed; what there was of it is removed.
        """
        assert self.task
        await asyncio.shield(self.task)


class Publisher:
    """Publishes into version folders. ``first_version`` is the least number given; ``digests`` are the
    whole digests that manifests carry, the last of which the distribution list shows."""

    def __init__(
        self,
        folders: VersionFolders,
        shard_size: int = SHARD_SIZE,
        first_version: int = 1,
        digests: tuple[str, ...] = ("sha256",),
    ) -> None:
        self._folders = folders
        self._shard_size = shard_size
        self._first_version = first_version
        self._digests = digests
        self._turn = asyncio.Lock()
        self._under_way: set[PendingBroadcast] = set()

    async def publish(
        self,
        path: Path,
        shard_size: int | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        copy: bool = True,
        confirm: Confirm | None = None,
    ) -> PendingBroadcast:
        """Begin a broadcast, behind those that were begun before; see ``sharding.publishing.publish``.

        Raises:
            PayloadMissing: there is no such file.
            LocalDiskError: it can't be read, or no number could be written down.
            UsageError: the shard size is no good.
        """
        description = self._describe(shard_size, metadata, copy)
        await asyncio.to_thread(check_payload, path)

        def cut(opened: OpenVersion, state: PublishProgress, claim: ReserveBytes) -> Manifest:
            opened.space.shard_size = description.shard_size
            return publish(path, opened, description, state, reserve=claim)

        return await self._begin(str(path), cut, confirm)

    async def publish_stream(
        self,
        source: BinaryIO,
        name: str,
        shard_size: int | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        confirm: Confirm | None = None,
    ) -> PendingBroadcast:
        """Begin to broadcast what comes from an unbuffered file until it ends, while it comes; it is closed
        at the end. ``Broadcast.cancel`` gives it up.

        Raises:
            LocalDiskError: no number could be written down.
            UsageError: the shard size is no good.
        """
        description = self._describe(shard_size, metadata, copy=True)

        def cut(opened: OpenVersion, state: PublishProgress, claim: ReserveBytes) -> Manifest:
            opened.space.shard_size = description.shard_size
            return publish_stream(source, name, opened, description, progress=state, reserve=claim)

        broadcast = await self._begin(name, cut, confirm)
        assert broadcast.task
        broadcast.task.add_done_callback(lambda _: source.close())
        return broadcast

    def _describe(
        self, shard_size: int | None, metadata: Mapping[str, Any] | None, copy: bool
    ) -> PayloadDescription:
        size = self._shard_size if shard_size is None else shard_size
        if not isinstance(size, int) or size < 1:
            raise UsageError(f"a shard of {size!r} bytes makes no sense; it must have at least one")
        piece_size_for(size)
        check_metadata(metadata or {})
        origin = self._folders.data_dir.origin_id
        return PayloadDescription(origin, size, self._digests, copy, dict(metadata or {}))

    async def _begin(self, what: str, cut: Cut, confirm: Confirm | None) -> PendingBroadcast:
        number = await asyncio.to_thread(self._folders.data_dir.allot, self._first_version)
        broadcast = PendingBroadcast(version_name(number))
        broadcast.task = asyncio.ensure_future(self._carry_out(broadcast, number, what, cut, confirm=confirm))
        broadcast.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._under_way.add(broadcast)
        return broadcast

    async def _carry_out(
        self, broadcast: PendingBroadcast, number: int, what: str, cut: Cut, *, confirm: Confirm | None
    ) -> None:
        loop = asyncio.get_running_loop()

        def ask(size: int) -> None:
            asyncio.run_coroutine_threadsafe(self._folders.room.claim(number, size), loop).result()

        claim = freely if self._folders.room.most is None else ask
        try:
            async with self._turn:
                with disk_errors(f"could not publish {broadcast.version} in", self._folders.data_dir.root):
                    manifest = await self._publish(broadcast, number, cut, claim, confirm=confirm)
            shards = format_count(len(manifest.shards), "shard")
            log.info(
                "%s is complete: %s, %s in %s", broadcast.version, what, format_size(manifest.size), shards
            )
        except ShardcastError as error:
            log.error("%s was given up: %s", broadcast.version, error)
            raise
        finally:
            self._under_way.discard(broadcast)

    async def _publish(
        self,
        broadcast: PendingBroadcast,
        number: int,
        cut: Cut,
        claim: ReserveBytes,
        *,
        confirm: Confirm | None,
    ) -> Manifest:
        if broadcast.state.cancelled:
            raise Cancelled(f"{broadcast.version} was called off")
        opened = await self._folders.begin(number, None, self._digests[-1])
        opened.confirm = lambda manifest: broadcast.confirmed(confirm)
        try:
            manifest = await asyncio.to_thread(cut, opened, broadcast.state, claim)
            await opened.complete(manifest)
        except BaseException:
            await asyncio.shield(self._folders.discard(number))
            raise
        return manifest

    async def close(self) -> None:
        """Call off what is under way, and wait for it."""
        tasks = [broadcast.task for broadcast in self._under_way if broadcast.task]
        for broadcast in self._under_way:
            broadcast.cancel()
        if tasks:
            await asyncio.wait(tasks)
