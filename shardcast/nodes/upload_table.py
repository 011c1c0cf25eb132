"""The uploads of an origin: found by their ids, bounded in number and bytes, and ended when they are idle."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardcast.concurrency import background_task, in_thread
from shardcast.disk_errors import disk_errors
from shardcast.errors import IntegrityError, NoRoom, ShardcastError
from shardcast.nodes.incoming_upload import IncomingUpload
from shardcast.nodes.live_upload import LiveUpload
from shardcast.nodes.publisher import Publisher
from shardcast.nodes.stored_upload import StoredUpload
from shardcast.policy.eviction import reserve_of
from shardcast.protocol.uploads import (
    UploadRequest,
    UploadsBusy,
    UploadState,
    UploadStatus,
    UploadUnknown,
    WholePayload,
    is_upload_id,
)
from shardcast.protocol.wire import version_number
from shardcast.sizes import format_size
from shardcast.store.disk_usage import disk_space
from shardcast.store.upload_folder import UploadFolder, remove_upload
from shardcast.store.versions import VersionFolders

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class UploadBounds:
    """Bounds of the uploads of an origin.

    Attributes:
        uploads: unfinished uploads at once, and finished ones remembered.
        idle_seconds: seconds without a request after which an unfinished upload is removed.
        live_seconds: the same for a live upload, whose open version others read.
        result_seconds: seconds for which a published upload reports its version.
        confirm_seconds: seconds for a sender to confirm a version.
        tidy_seconds: seconds between two looks for idle uploads.
    """

    uploads: int = 64
    idle_seconds: float = 86_400.0
    live_seconds: float = 60.0
    result_seconds: float = 3_600.0
    confirm_seconds: float = 60.0
    tidy_seconds: float = 1.0


class UploadTable:
    """The uploads of a data directory (an ``UploadTarget``)."""

    def __init__(
        self,
        folders: VersionFolders,
        publisher: Publisher,
        bounds: UploadBounds | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make an empty table; ``running`` takes up the uploads of an earlier run.

        Args:
            folders: the version folders of the data directory.
            publisher: publishes the payloads.
            bounds: of the uploads.
            clock: returns seconds.
        """
        self._folders = folders
        self._publisher = publisher
        self._bounds = bounds or UploadBounds()
        self._clock = clock
        self._uploads: dict[str, IncomingUpload] = {}
        self._unremoved: set[Path] = set()
        self._beginning = asyncio.Lock()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take up uploads of an earlier run, and end idle ones while the block runs.

        Raises:
            LocalDiskError: the folder of uploads, or of one upload, can't be read.
        """
        for folder in await in_thread(self._left_folders):
            await self._take_up(folder)
        try:
            async with background_task(self._tidy_forever()):
                yield
        finally:
            for upload in list(self._uploads.values()):
                await upload.close()

    # Requests

    async def begin(self, request: UploadRequest) -> UploadStatus:
        """Begin an upload, or return the sender's earlier one with the same key.

        Raises:
            UploadsBusy: there are too many uploads.
            NoRoom: the payload is larger than the room on the disk or within ``--max-bytes``.
            LocalDiskError: the disk failed.
            UsageError: the shard size or the metadata can't be used.
            NodeEnding: the origin is ending (live uploads).
            ShardcastError: the version of a live upload was aborted at once.
        """
        async with self._beginning:
            known = await self._find(request)
            if known:
                return known.status()
            if sum(not upload.complete for upload in self._uploads.values()) >= self._bounds.uploads:
                raise UploadsBusy(f"{self._bounds.uploads} uploads are under way; try again later")
            self._folders.data_dir.check_held()
            if not request.live:
                await in_thread(self._check_announced, request.size or 0)
            place = self._root / secrets.token_hex(16)
            try:
                upload = await self._open(await in_thread(UploadFolder.create, place, request))
            except BaseException:
                await self._remove_folder(place)
                raise
            self._uploads[upload.id] = upload
        log.info("upload %s begins: %s", upload.id[:8], request.name)
        try:
            return upload.status()
        except ShardcastError:  # its sender never learns its id
            await self._remove(upload)
            raise

    def status(self, upload: str) -> UploadStatus:
        """Return the status of an upload.

        Raises:
            UploadUnknown: there is no upload with this id.
            ShardcastError: the upload has failed.
        """
        return self._get(upload).status()

    async def append(self, upload: str, offset: int, chunks: AsyncIterable[bytes]) -> UploadStatus:
        """Take bytes of an upload, and return its status afterwards; see ``IncomingUpload.append``.

        Raises:
            UploadUnknown: there is none with this id.
            ShardcastError, ConnectionError: as there.
        """
        found = self._get(upload)
        await found.append(offset, chunks)
        return found.status()

    async def finish(self, upload: str, whole: WholePayload) -> AsyncGenerator[Mapping[str, Any], None]:
        """Check and cut a whole payload; see ``IncomingUpload.finish``.

        Raises:
            UploadUnknown: there is none with this id.
            IntegrityError: the payload is not the sender's, and was removed.
            ShardcastError: as there.
        """
        found = self._get(upload)
        try:
            async with aclosing(found.finish(whole)) as lines:
                async for line in lines:
                    yield line
        except IntegrityError:
            await self._remove(found)
            raise

    async def confirm(self, upload: str) -> str:
        """Complete the version of an upload, and return the version's name; see ``IncomingUpload.confirm``.

        Raises:
            UploadUnknown: there is no upload with this id.
            ShardcastError: as there.
        """
        return await self._get(upload).confirm()

    async def discard(self, upload: str) -> None:
        """Forget an upload; without a confirmation, nothing is published.

        Raises:
            UploadUnknown: there is no upload with this id.
        """
        await self._remove(self._get(upload))

    # Look-up

    @property
    def _root(self) -> Path:
        return self._folders.data_dir.uploads

    def _get(self, upload: str) -> IncomingUpload:
        found = self._uploads.get(upload)
        if found is None:
            raise UploadUnknown(f"there is no upload {upload}: it expired or was discarded; begin it again")
        return found

    async def _find(self, request: UploadRequest) -> IncomingUpload | None:
        """Return the upload with a request's key, unless failed or published as a version since gone."""
        same = (upload for upload in self._uploads.values() if upload.request == request)
        found = next(same, None) if request.key else None
        if found is None:
            return None
        try:
            found.check_open()
        except ShardcastError:
            await self._remove(found)
            return None
        if found.complete and version_number(found.version or "") not in self._folders.complete_numbers:
            await self._remove(found)
            return None
        return found

    async def _open(self, folder: UploadFolder) -> IncomingUpload:
        """Return the upload of a new folder."""
        upload: IncomingUpload
        if folder.record.request.live:
            upload = await LiveUpload.start(
                folder, self._clock, self._publisher, self._folders.data_dir.check_held
            )
        else:
            upload = StoredUpload(folder, self._clock, self._publisher, self._check_room)
        upload.confirm_seconds = self._bounds.confirm_seconds
        return upload

    # Uploads of an earlier run

    def _left_folders(self) -> list[Path]:
        with disk_errors("could not read", self._root):
            return sorted(self._root.iterdir()) if self._root.is_dir() else []

    async def _take_up(self, folder: Path) -> None:
        """Take up an upload that can go on or report its version; remove any other.

        Raises:
            LocalDiskError: the disk failed; the upload stays for the next start.
        """
        try:
            if not is_upload_id(folder.name):
                raise ValueError("malformed name of an upload")
            loaded = await in_thread(UploadFolder.load, folder)
        except ValueError as error:
            log.warning("the upload left in %s can't be continued, and is removed: %s", folder, error)
            await self._remove_folder(folder)
            return
        record = loaded.record
        if record.version and not record.complete and self._was_published(record.version):
            await in_thread(loaded.note_complete)
        if record.request.live and not loaded.record.complete:
            await self._remove_folder(folder)  # its open version ended with the node
            return
        upload = StoredUpload(loaded, self._clock, self._publisher, self._check_room)
        upload.confirm_seconds = self._bounds.confirm_seconds
        upload.last_used = self._clock() - await in_thread(loaded.idle_seconds)
        self._uploads[upload.id] = upload

    def _was_published(self, version: str) -> bool:
        """Return whether a version is complete, or was complete before its withdrawal.

        The digests of the line's record prove nothing: a digest is recorded before its version is on the
        list.
        """
        number = version_number(version)
        return number in {*self._folders.complete_numbers, *self._folders.line.withdrawn}

    # Room

    def _check_announced(self, size: int) -> None:
        """Check that there is room for a payload beside the sizes announced by other uploads; in a thread.

        Raises:
            NoRoom: there is no room.
        """
        stored = [
            upload for upload in self._uploads.values() if not upload.request.live and not upload.complete
        ]
        most = self._folders.quota.max_bytes
        if most is not None and size + sum(max(one.offset, one.request.size or 0) for one in stored) > most:
            raise NoRoom(
                f"no room for an upload of {format_size(size)}: the origin keeps {format_size(most)} in all "
                "(--max-bytes)"
            )
        to_come = sum(max(0, (upload.request.size or 0) - upload.offset) for upload in stored)
        self._check_room(size + to_come)

    def _check_room(self, size: int = 0) -> None:
        """Check that the disk has room for so many bytes beside the reserve; in a thread.

        Raises:
            NoRoom: the disk has no room.
        """
        with disk_errors("could not use", self._root):
            space = disk_space(self._folders.data_dir.root)
        free = max(0, space.free - reserve_of(space.size))
        if size >= free or not space.takes_files:
            raise NoRoom(
                f"no room for an upload of {format_size(size)}: the disk of the origin has "
                f"{format_size(free)} free; free some there"
            )

    # Idle uploads

    async def _tidy_forever(self) -> None:
        while True:
            await asyncio.sleep(self._bounds.tidy_seconds)
            await self.tidy()

    async def tidy(self) -> None:
        """Remove the uploads of departed senders, and results remembered for long enough."""
        now = self._clock()
        idle = [
            upload
            for upload in self._uploads.values()
            if not upload.active and now - upload.last_used >= self._patience(upload)
        ]
        for upload in idle:
            if not upload.complete:
                log.warning(
                    "upload %s of %s was discarded: nothing came for %.0f s",
                    upload.id[:8], upload.request.name, now - upload.last_used,
                )  # fmt: skip
        complete = [upload for upload in self._uploads.values() if upload.complete and not upload.active]
        complete.sort(key=lambda upload: upload.last_used)
        excess = complete[: max(0, len(complete) - self._bounds.uploads)]
        for upload in {*idle, *excess}:
            await self._remove(upload)
        for folder in list(self._unremoved):
            await self._remove_folder(folder)

    def _patience(self, upload: IncomingUpload) -> float:
        """Return the seconds without a request after which an upload is removed."""
        if upload.complete:
            return self._bounds.result_seconds
        waits = upload.state is UploadState.WAITING
        return self._bounds.live_seconds if upload.request.live and not waits else self._bounds.idle_seconds

    async def _remove(self, upload: IncomingUpload) -> None:
        """Forget an upload, published or not, and remove its folder."""
        self._uploads.pop(upload.id, None)
        await upload.close()
        await self._remove_folder(upload.folder.folder)

    async def _remove_folder(self, folder: Path) -> None:
        """Remove the folder of a forgotten upload; if the disk refuses, ``tidy`` tries again later."""
        if await in_thread(remove_upload, folder):
            self._unremoved.discard(folder)
        elif folder not in self._unremoved:
            self._unremoved.add(folder)
            log.warning("could not remove the upload in %s; trying again later", folder)
