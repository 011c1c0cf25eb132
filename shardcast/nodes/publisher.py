"""Broadcasts into a data directory: each gets a number at once; cutting is one at a time."""

from __future__ import annotations

import asyncio
import logging
import stat
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from shardcast.concurrency import cancel
from shardcast.constants import SHARD_SIZE
from shardcast.disk_errors import disk_errors
from shardcast.errors import NodeEnding, ShardcastError, UsageError
from shardcast.folders.publishing import PublishedFolders, check_folder_options, publish_folder
from shardcast.folders.survey import SurveyRules
from shardcast.folders.tar_publishing import ListedFolder, publish_tar_file, publish_tar_stream
from shardcast.folders.written_publishing import publish_written_folder
from shardcast.log_fields import about
from shardcast.protocol.manifest import Manifest, check_metadata, piece_size_for
from shardcast.protocol.wire import version_name
from shardcast.sharding.publication import (
    Cancelled,
    PayloadDescription,
    PublishProgress,
    ReserveBytes,
    reserve_freely,
)
from shardcast.sharding.publishing import check_payload, publish, publish_stream
from shardcast.sizes import format_count, format_size
from shardcast.store.open_version import OpenVersion
from shardcast.store.versions import VersionFolders

log = logging.getLogger(__name__)

Cut = Callable[[OpenVersion, PublishProgress, ReserveBytes], Manifest]
"""A function to cut a payload into an open version, in a thread."""
Confirm = Callable[[], Awaitable[None]]
"""Awaited before a version becomes complete; raises if the caller no longer waits for the version."""
CheckManifest = Callable[[Manifest], None]
"""Called before ``Confirm`` with the manifest; raises if the payload differs from the sender's."""


class PendingBroadcast:
    """One payload on its way to becoming a version.

    Attributes:
        version: the version's name, ``v7``, fixed from the start.
        state: the progress, shared with the cutting thread.
        task: carries the broadcast out.
        started: whether the turn of this broadcast has come.
    """

    def __init__(self, version: str) -> None:
        self.version = version
        self.state = PublishProgress()
        self.task: asyncio.Task[None] | None = None
        self.started = False
        self._aborted = asyncio.Event()

    def progress(self) -> Mapping[str, Any]:
        """Return ``size`` (None while unknown), ``done``, ``shard_size`` in bytes, and whole ``shards``."""
        state = self.state
        return {
            "size": state.size,
            "done": state.done,
            "shards": state.shards,
            "shard_size": state.shard_size,
        }

    def end(self, size: int) -> None:
        """Set the bytes of a stream: the cut ends after so many, and aborts the version if fewer come."""
        self.state.size = size

    def cancel(self) -> None:
        """Have the broadcast aborted, unless the version is complete; do not wait for the end."""
        self.state.cancelled = True
        self._aborted.set()

    async def wait_until_confirmed(self, confirm: Confirm | None) -> None:
        """Wait for the caller's confirmation, needed to complete the version.

        Raises:
            Cancelled: the broadcast was aborted meanwhile.
            ShardcastError: the caller has gone.
        """
        confirming = asyncio.ensure_future(confirm() if confirm else asyncio.sleep(0))
        aborted = asyncio.ensure_future(self._aborted.wait())
        try:
            await asyncio.wait({confirming, aborted}, return_when=asyncio.FIRST_COMPLETED)
            if self.state.cancelled:
                raise Cancelled(f"the broadcast of {self.version} was cancelled")
            confirming.result()
        finally:
            await cancel([confirming, aborted])
            if not confirming.cancelled():
                confirming.exception()  # else asyncio logs that it was never retrieved

    async def result(self) -> None:
        """Wait until the version is complete.

        Raises:
            ShardcastError: the broadcast failed; all shards are discarded.
        """
        assert self.task
        await asyncio.shield(self.task)


class Publisher:
    """The broadcasts into one data directory."""

    def __init__(
        self,
        folders: VersionFolders,
        shard_size: int = SHARD_SIZE,
        first_version: int = 1,
        digests: tuple[str, ...] = ("sha256",),
    ) -> None:
        """Publish into ``folders``.

        Args:
            folders: the version folders of the data directory.
            shard_size: bytes of a shard, unless a broadcast names another size.
            first_version: the lowest number to give.
            digests: the whole digests in manifests; the distribution list shows the last one.
        """
        self._folders = folders
        self._shard_size = shard_size
        self._first_version = first_version
        self._digests = digests
        self._turn = asyncio.Lock()
        self._under_way: set[PendingBroadcast] = set()
        self._is_closed = False
        records = PublishedFolders(folders.data_dir.sources, folders.manifest_of)
        folders.data_dir.links.tell = records.note_links

    async def publish(
        self,
        path: Path,
        shard_size: int | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        copy: bool = True,
        confirm: Confirm | None = None,
        name: str = "",
        check: CheckManifest | None = None,
        exclude: Sequence[str] = (),
        mtimes: bool = True,
        checksum: bool = False,
    ) -> PendingBroadcast:
        """Start a broadcast, to run after all earlier ones; see ``sharding.publishing.publish``.

        Args:
            path: the payload.
            shard_size: bytes of a shard; None for the usual ones.
            metadata: carried to readers in the manifest's header.
            copy: whether shards are files of their own; else they are parts of the payload's file, if the
                file can be linked or cloned.
            confirm: awaited before the version becomes complete.
            name: the payload's name in the manifest; empty for the file's name.
            check: called with the manifest before ``confirm``.
            exclude: patterns of the paths to leave out of a folder.
            mtimes: whether times of a folder's files are published; else all are 0.
            checksum: whether to read all files of a folder; else files unchanged since the last version are
                not read.

        Raises:
            PayloadMissing: there is no such file or folder.
            LocalDiskError: the payload can't be read, or the number can't be recorded.
            UsageError: the shard size, the metadata or a pattern can't be used.
            NodeEnding: ``close`` was called.
        """
        description = replace(self._describe(shard_size, metadata, copy), name=name)
        data_dir = self._folders.data_dir
        rules = SurveyRules(tuple(exclude), mtimes, forbidden=data_dir.root)
        versions = PublishedFolders(data_dir.sources, self._folders.manifest_of, checksum)
        found = await asyncio.to_thread(check_payload, path)
        is_folder = stat.S_ISDIR(found.st_mode)
        check_folder_options(path, is_folder, rules)

        def cut(opened: OpenVersion, state: PublishProgress, claim: ReserveBytes) -> Manifest:
            opened.space.shard_size = description.shard_size
            if is_folder:
                with data_dir.links.standing():
                    return publish_folder(
                        path, opened, description, state, rules=rules, reserve=claim, versions=versions
                    )
            return publish(path, opened, description, state, reserve=claim)

        return await self._begin(name or str(path), cut, confirm, check)

    async def publish_stream(
        self,
        source: BinaryIO,
        name: str,
        shard_size: int | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        confirm: Confirm | None = None,
        check: CheckManifest | None = None,
        as_folder: bool = False,
    ) -> PendingBroadcast:
        """Start to broadcast a stream while it comes; ``PendingBroadcast.cancel`` aborts the broadcast.

        Args:
            source: an unbuffered file, read to the end and then closed.
            name: the payload's name.
            shard_size: bytes of a shard; None for the usual ones.
            metadata: carried to readers in the manifest's header.
            confirm: awaited before the version becomes complete.
            check: called with the manifest before ``confirm``.
            as_folder: whether files of a folder come, one by one (``written_publishing``).

        Raises:
            LocalDiskError: the number can't be recorded.
            UsageError: the shard size or the metadata can't be used.
            NodeEnding: ``close`` was called.
        """
        description = self._describe(shard_size, metadata, copy=True)

        def cut(opened: OpenVersion, state: PublishProgress, claim: ReserveBytes) -> Manifest:
            opened.space.shard_size = description.shard_size
            cut_pipe = publish_written_folder if as_folder else publish_stream
            return cut_pipe(source, name, opened, description, progress=state, reserve=claim)

        broadcast = await self._begin(name, cut, confirm, check)
        assert broadcast.task
        broadcast.task.add_done_callback(lambda _: source.close())
        broadcast.state.shard_size = description.shard_size
        return broadcast

    async def publish_tar(
        self,
        source: BinaryIO | Path,
        folder: ListedFolder,
        shard_size: int | None = None,
        *,
        lines: bytes = b"",
        metadata: Mapping[str, Any] | None = None,
        confirm: Confirm | None = None,
        check: CheckManifest | None = None,
    ) -> PendingBroadcast:
        """Start to broadcast a folder from a tar, already here or still coming; see ``publish_stream``.

        Args:
            source: an unbuffered file with list and tar, read to the end and then closed; or the path of the
                tar.
            folder: the folder.
            shard_size: bytes of a shard; None for the usual ones.
            lines: the list, beside a path.
            metadata: carried to readers in the manifest's header.
            confirm: awaited before the version becomes complete.
            check: called with the manifest before ``confirm``.

        Raises:
            LocalDiskError: the number can't be recorded.
            UsageError: the shard size or the metadata can't be used.
            NodeEnding: ``close`` was called.
        """
        description = self._describe(shard_size, metadata, copy=False)

        def cut(opened: OpenVersion, state: PublishProgress, claim: ReserveBytes) -> Manifest:
            opened.space.shard_size = description.shard_size
            if isinstance(source, Path):
                return publish_tar_file(
                    source, lines, folder, opened, description, progress=state, reserve=claim
                )
            return publish_tar_stream(source, folder, opened, description, progress=state, reserve=claim)

        broadcast = await self._begin(folder.facts.name, cut, confirm, check)
        assert broadcast.task
        if not isinstance(source, Path):
            broadcast.task.add_done_callback(lambda _: source.close())
        broadcast.state.shard_size = description.shard_size
        return broadcast

    def _describe(
        self, shard_size: int | None, metadata: Mapping[str, Any] | None, copy: bool
    ) -> PayloadDescription:
        """Return the description of a payload.

        Raises:
            UsageError: the shard size or the metadata can't be used.
        """
        size = self._shard_size if shard_size is None else shard_size
        if not isinstance(size, int) or size < 1:
            raise UsageError(f"a shard of {size!r} bytes makes no sense; it must have at least one")
        piece_size_for(size)
        check_metadata(metadata or {})
        origin = self._folders.data_dir.origin_id
        return PayloadDescription(origin, size, self._digests, copy, dict(metadata or {}))

    async def _begin(
        self, source: str, cut: Cut, confirm: Confirm | None, check: CheckManifest | None
    ) -> PendingBroadcast:
        """Allot a number, durably, and have the broadcast carried out.

        Raises:
            NodeEnding: ``close`` was called.
            LocalDiskError: the number can't be recorded.
        """
        self._check_open(source)
        number = await asyncio.to_thread(self._folders.data_dir.allot, self._first_version)
        self._check_open(source)
        broadcast = PendingBroadcast(version_name(number))
        broadcast.task = asyncio.ensure_future(
            self._carry_out(broadcast, number, source, cut, confirm=confirm, check=check)
        )
        broadcast.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._under_way.add(broadcast)
        return broadcast

    def _check_open(self, source: str) -> None:
        """Check that ``close`` was not called.

        Raises:
            NodeEnding: ``close`` was called.
        """
        if self._is_closed:
            raise NodeEnding(f"{source} is not published: its publisher is ending; broadcast it again")

    async def _carry_out(
        self,
        broadcast: PendingBroadcast,
        number: int,
        source: str,
        cut: Cut,
        *,
        confirm: Confirm | None,
        check: CheckManifest | None,
    ) -> None:
        """Publish after the end of all earlier broadcasts, and log the result.

        Raises:
            NodeEnding: ``close`` was called meanwhile.
            ShardcastError: publishing failed.
        """
        loop = asyncio.get_running_loop()

        def reserve(size: int) -> None:  # in the thread that cuts
            asyncio.run_coroutine_threadsafe(self._folders.quota.claim(number, size), loop).result()

        claim = reserve_freely if self._folders.quota.max_bytes is None else reserve
        try:
            async with self._turn:
                with disk_errors(f"could not publish {broadcast.version} in", self._folders.data_dir.root):
                    manifest = await self._publish(
                        broadcast, number, cut, claim, confirm=confirm, check=check
                    )
            size, shards = format_size(manifest.size), format_count(len(manifest.shards), "shard")
            named = about(version=broadcast.version)
            log.info("%s is complete: %s, %s in %s", broadcast.version, source, size, shards, extra=named)
        except ShardcastError as error:
            log.error("%s was aborted: %s", broadcast.version, error, extra=about(version=broadcast.version))
            if self._is_closed and isinstance(error, Cancelled):
                raise NodeEnding(
                    f"{broadcast.version} is not published: its publisher ended before it was complete; "
                    "broadcast it again"
                ) from error
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
        check: CheckManifest | None,
    ) -> Manifest:
        """Cut a payload into a new version; discard the version on failure."""
        broadcast.started = True
        if broadcast.state.cancelled:
            raise Cancelled(f"the broadcast of {broadcast.version} was cancelled")
        opened = await self._folders.begin_version(number, None, self._digests[-1])

        async def confirmed(manifest: Manifest) -> None:
            if check:
                check(manifest)
            await broadcast.wait_until_confirmed(confirm)

        opened.confirm = confirmed
        try:
            manifest = await asyncio.to_thread(cut, opened, broadcast.state, claim)
            await opened.complete(manifest)
        except BaseException:
            await asyncio.shield(self._folders.discard(number))
            raise
        return manifest

    async def close(self) -> None:
        """Abort the broadcasts under way, wait until they have ended, and refuse others."""
        self._is_closed = True
        tasks = [broadcast.task for broadcast in self._under_way if broadcast.task]
        for broadcast in self._under_way:
            broadcast.cancel()
        if tasks:
            await asyncio.wait(tasks)
