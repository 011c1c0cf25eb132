"""An upload stored in a file until complete; nothing of the payload is visible before."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from shardcast.concurrency import in_thread
from shardcast.nodes.incoming_upload import IncomingUpload, listed
from shardcast.nodes.publisher import PendingBroadcast, Publisher
from shardcast.nodes.upload_ending import UploadEnding, mismatch
from shardcast.store.upload_folder import UploadFolder

_SYNC_BYTES = 64 << 20
"""Bytes between two fsyncs of the file: the maximum loss in a crash."""
_HASH_BYTES = 64 << 20
"""Bytes hashed between two checks for cancellation."""


class StoredUpload(IncomingUpload):
    """An upload whose bytes are hashed as they come, and linked into the version at the end."""

    def __init__(
        self,
        folder: UploadFolder,
        clock: Callable[[], float],
        publisher: Publisher,
        check_room: Callable[[], None],
    ) -> None:
        """Make an upload into a folder.

        Args:
            folder: the upload's folder.
            clock: returns seconds.
            publisher: publishes the payload.
            check_room: raises on a full disk; called in the writing thread.
        """
        super().__init__(folder, clock)
        self._publisher = publisher
        self._check_room = check_room
        self._pending: PendingBroadcast | None = None

    @property
    def offset(self) -> int:
        """Number of bytes received and kept."""
        return self.folder.received

    def check_open(self) -> None:
        """Do nothing: a failed operation may succeed the next time."""

    def _keep(self, data: bytearray) -> None:
        self.folder.append(data)
        if self.folder.received - self.folder.record.durable >= _SYNC_BYTES:
            self._check_room()
            self.folder.sync()

    def _settle(self) -> None:
        try:
            self.folder.sync()
        finally:
            self.folder.release()

    async def _publish(self, ending: UploadEnding) -> str:
        """Publish the whole payload, if its digest is the sender's.

        Raises:
            IntegrityError: the digest differs; the upload has become useless.
            ShardcastError: publishing failed.
        """
        ending.progress = self._progress
        while await in_thread(self.folder.hash_more, _HASH_BYTES):
            pass
        if (sha256 := self.folder.digest()) != ending.whole.sha256:
            raise mismatch(ending.whole, self.offset, sha256)
        await in_thread(self.folder.seal)
        pending = self._pending = await self._begin(ending)
        try:
            await pending.result()
        except asyncio.CancelledError:
            pending.cancel()
            with contextlib.suppress(Exception):
                await pending.result()
            raise
        finally:
            self._pending = None
        await in_thread(self.folder.note_complete)
        return pending.version

    async def _begin(self, ending: UploadEnding) -> PendingBroadcast:
        """Start to publish the payload, a file or the tar of a folder."""
        folder, request = self.request.folder, self.request
        if folder:
            lines = await in_thread(self.folder.read_list)
            return await self._publisher.publish_tar(
                self.folder.payload,
                listed(folder),
                request.shard_size,
                lines=lines,
                metadata=request.metadata,
                confirm=ending.confirm,
                check=ending.check,
            )
        return await self._publisher.publish(
            self.folder.payload,
            request.shard_size,
            metadata=request.metadata,
            copy=False,
            name=request.name,
            confirm=ending.confirm,
            check=ending.check,
        )

    def _progress(self) -> Mapping[str, Any]:
        """Return the progress of the cut, or of the digest before."""
        if self._pending:
            return self._pending.progress()
        return {"done": self.folder.hashed, "size": self.offset, "shards": 0}

    async def _note_version(self) -> None:
        assert self._pending
        version = self._pending.version
        await in_thread(lambda: self.folder.write_record(version=version))
