"""An upload whose version opens at once and grows as the bytes come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import BinaryIO, Self

from shardcast.concurrency import in_thread
from shardcast.control.pipe import PipeWriter
from shardcast.nodes.incoming_upload import IncomingUpload, listed
from shardcast.nodes.publisher import PendingBroadcast, Publisher
from shardcast.nodes.upload_ending import UploadEnding
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.uploads import UploadState
from shardcast.server.named_pipe import NamedPipe
from shardcast.store.upload_folder import UploadFolder


class LiveUpload(IncomingUpload):
    """An upload sent straight to the publisher, without a copy; ends together with the origin's process."""

    def __init__(self, folder: UploadFolder, clock: Callable[[], float]) -> None:
        """Take up the folder; ``start`` opens the version."""
        super().__init__(folder, clock)
        self._offset = 0
        self._pending: PendingBroadcast | None = None
        self._pipe: NamedPipe | None = None
        self._writer: PipeWriter | None = None

    @classmethod
    async def start(
        cls,
        folder: UploadFolder,
        clock: Callable[[], float],
        publisher: Publisher,
        pipes: Callable[[], object],
    ) -> Self:
        """Open the version.

        Args:
            folder: the upload's folder.
            clock: returns seconds.
            publisher: publishes the bytes.
            pipes: checks that the data directory is still there.

        Raises:
            LocalDiskError: the version can't be opened.
            UsageError: the shard size or the metadata can't be used.
        """
        pipes()
        upload = cls(folder, clock)
        pipe = upload._pipe = NamedPipe(folder.folder)
        source = pipe.take_source()
        try:
            upload._writer = PipeWriter(str(pipe.path), folder.record.request.name, folder.folder)
            upload._pending = await upload._begin(publisher, source)
        except BaseException:
            source.close()
            await upload.close()
            raise
        await in_thread(lambda: folder.write_record(version=upload._opened.version))
        return upload

    async def _begin(self, publisher: Publisher, source: BinaryIO) -> PendingBroadcast:
        """Start to publish from the pipe: a file, or list and tar of a folder."""
        request = self.request
        if request.folder:
            return await publisher.publish_tar(
                source,
                listed(request.folder),
                request.shard_size,
                metadata=request.metadata,
                confirm=self._confirm,
                check=self._check,
            )
        return await publisher.publish_stream(
            source,
            request.name,
            request.shard_size,
            metadata=request.metadata,
            confirm=self._confirm,
            check=self._check,
        )

    @property
    def _opened(self) -> PendingBroadcast:
        """The broadcast."""
        assert self._pending
        return self._pending

    @property
    def version(self) -> str | None:
        """The version, from the start."""
        return self.folder.record.version or None

    @property
    def offset(self) -> int:
        """Number of bytes taken by the publisher."""
        return self._offset

    @property
    def state(self) -> UploadState:
        """The state of the upload; ``WAITING`` while earlier broadcasts go first."""
        if self._pending and not self._pending.started and not self.complete:
            return UploadState.WAITING
        return super().state

    def check_open(self) -> None:
        """Check that the version was not aborted.

        Raises:
            ShardcastError: why it was aborted.
        """
        task = self._pending.task if self._pending else None
        if task and task.done() and not task.cancelled() and (error := task.exception()):
            raise error

    def _keep(self, data: bytearray) -> None:
        assert self._writer
        try:
            self._writer.write(data)
        except OSError as error:
            raise ConnectionResetError(f"the version takes no more bytes: {error}") from error
        self._offset += len(data)

    def _settle(self) -> None:
        pass  # the cut makes shards durable

    async def _publish(self, ending: UploadEnding) -> str:
        """End the stream, and wait until the version is complete.

        Raises:
            ShardcastError: publishing failed.
        """
        assert self._writer and self._pipe
        ending.progress = self._opened.progress
        self._opened.end(self._offset)
        await in_thread(self._writer.close)
        self._pipe.close()
        await self._opened.result()
        await in_thread(self.folder.note_complete)
        return self._opened.version

    def _check(self, manifest: Manifest) -> None:
        assert self._ending
        self._ending.check(manifest)

    async def _confirm(self) -> None:
        assert self._ending
        await self._ending.confirm()

    async def _note_version(self) -> None:
        pass  # that was written down when it opened

    async def close(self) -> None:
        """Abort the version, unless complete or confirmed by the sender."""
        if self._pending and not (self._ending and self._ending.is_confirmed):
            self._pending.cancel()
        if self._writer:
            await in_thread(self._writer.abort)
        await super().close()
        if self._pending and self._pending.task:
            await asyncio.wait([self._pending.task])
        if self._pipe:
            self._pipe.close()
