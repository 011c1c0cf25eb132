"""One upload at an origin: bytes come in order, one request at a time; its end publishes them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from shardcast.concurrency import cancel, in_thread
from shardcast.errors import UsageError
from shardcast.folders.tar_publishing import ListedFolder
from shardcast.nodes.upload_bodies import write_through
from shardcast.nodes.upload_ending import UploadEnding
from shardcast.protocol.manifest import FolderFacts
from shardcast.protocol.uploads import (
    UploadedFolder,
    UploadRequest,
    UploadState,
    UploadStatus,
    WholePayload,
    WrongOffset,
)
from shardcast.server.callers import CONFIRM_SECONDS
from shardcast.store.upload_folder import UploadFolder


def listed(folder: UploadedFolder) -> ListedFolder:
    """Return the folder announced by an upload, as published."""
    return ListedFolder(FolderFacts(folder.name, folder.entries), folder.list_size)


class IncomingUpload(ABC):
    """An upload, stored (``StoredUpload``) or live (``LiveUpload``).

    Attributes:
        id: the upload's id.
        folder: the upload's folder.
        last_used: time of the sender's last request, by ``clock``.
        confirm_seconds: seconds for the sender to confirm.
    """

    def __init__(self, folder: UploadFolder, clock: Callable[[], float]) -> None:
        self.id = folder.folder.name
        self.folder = folder
        self.last_used = clock()
        self.confirm_seconds = CONFIRM_SECONDS
        self._clock = clock
        self._receiving: asyncio.Future[None] | None = None
        self._ending: UploadEnding | None = None

    # State

    @property
    def request(self) -> UploadRequest:
        """The announcement of the upload."""
        return self.folder.record.request

    @property
    def version(self) -> str | None:
        """The version published from this upload; None before."""
        return self.folder.record.version if self.complete else None

    @property
    def complete(self) -> bool:
        """Whether the version is complete."""
        return self.folder.record.complete

    @property
    def active(self) -> bool:
        """Whether a request about the upload is under way, or publishing runs."""
        return self._receiving is not None or self.ending is not None

    @property
    def ending(self) -> UploadEnding | None:
        """The running publication at the end of the upload; None before and after."""
        return self._ending if self._ending and self._ending.running else None

    @property
    @abstractmethod
    def offset(self) -> int:
        """Number of bytes received and kept."""

    @property
    def state(self) -> UploadState:
        """The progress of the upload as one word."""
        if self.complete:
            return UploadState.COMPLETE
        return UploadState.PUBLISHING if self.ending else UploadState.RECEIVING

    def status(self) -> UploadStatus:
        """Return the status of the upload for its sender, and count this as a request of the sender.

        Raises:
            ShardcastError: the upload has failed.
        """
        self.check_open()
        self.last_used = self._clock()
        return UploadStatus(self.id, self.offset, self.state, self.version, self.request.folder is not None)

    @abstractmethod
    def check_open(self) -> None:
        """Check that the upload has not failed.

        Raises:
            ShardcastError: why it failed.
        """

    # Bytes

    async def append(self, offset: int, chunks: AsyncIterable[bytes]) -> None:
        """Take bytes from ``offset`` on; keep the received part also of a broken body.

        An earlier request still under way is ended: the sender has begun anew, and the old connection may be
        dead.

        Raises:
            WrongOffset: the upload stands elsewhere, or is whole already.
            UsageError: there are more bytes than announced.
            ShardcastError: the bytes can't be kept.
            ConnectionError: the sender went away, or began anew.
        """
        await self._stop_receiving()
        self.check_open()
        if offset != self.offset or self.complete or self.ending:
            raise WrongOffset(self.offset)
        receiving = self._receiving = asyncio.ensure_future(self._receive(chunks))
        try:
            await asyncio.wait([receiving])
        finally:
            await cancel([receiving])
            if self._receiving is receiving:
                self._receiving = None
            self.last_used = self._clock()
        if receiving.cancelled():
            raise ConnectionResetError("the sender has begun anew")
        receiving.result()

    async def _stop_receiving(self) -> None:
        """End the request with the incoming bytes; the bytes so far are kept."""
        while (receiving := self._receiving) is not None:
            await cancel([receiving])
            if self._receiving is receiving:
                self._receiving = None

    async def _receive(self, chunks: AsyncIterable[bytes]) -> None:
        """Write a body, then make the written bytes durable, as far as possible."""
        try:
            await write_through(chunks, self._write)
        finally:
            await in_thread(self._settle)

    def _write(self, data: bytearray) -> None:
        """Write the next bytes; in a thread.

        Raises:
            UsageError: there are more than the announcement says.
            ShardcastError: they can't be kept.
        """
        size = self.request.size
        if size is not None and self.offset + len(data) > size:
            raise UsageError(f"the upload has more bytes than the {size} that it announced")
        self._keep(data)

    @abstractmethod
    def _keep(self, data: bytearray) -> None:
        """Keep the next bytes; in a thread."""

    @abstractmethod
    def _settle(self) -> None:
        """Make the bytes durable after a request; in a thread."""

    # End

    async def finish(self, whole: WholePayload) -> AsyncGenerator[Mapping[str, Any], None]:
        """Check and cut the whole payload; yield progress, and at the end ready, or complete already.

        Raises:
            WrongOffset: bytes are missing.
            IntegrityError: the payload differs from the sender's; nothing is published or kept.
            ShardcastError: publishing failed.
        """
        await self._stop_receiving()
        self.last_used = self._clock()
        if self.complete:
            yield {"complete": self.version}
            return
        self.check_open()
        if whole.size != self.offset or whole.size < self.request.list_size:
            raise WrongOffset(self.offset)
        whole = replace(whole, size=whole.size - self.request.list_size)
        if self._ending and self._ending.whole != whole:
            await self._ending.cancel()
        if self._ending is None or self._ending.failed:
            self._ending = UploadEnding(whole, self._publish, self._note_version, self.confirm_seconds)
        async with aclosing(self._ending.lines()) as lines:
            async for line in lines:
                yield line

    async def confirm(self) -> str:
        """Complete the version after the sender's confirmation, and return the version's name.

        Raises:
            WrongOffset: the upload was not finished before.
            ShardcastError: publishing failed.
        """
        self.last_used = self._clock()
        if self.complete:
            return self.folder.record.version
        if self._ending is None:
            raise WrongOffset(self.offset)
        return await self._ending.confirmed()

    @abstractmethod
    async def _publish(self, ending: UploadEnding) -> str:
        """Publish the whole payload, and return the version."""

    @abstractmethod
    async def _note_version(self) -> None:
        """Record the version's number, before the version can be complete."""

    async def close(self) -> None:
        """Stop the work of the upload, unless complete; received bytes stay for the next start."""
        await self._stop_receiving()
        if self._ending:
            await self._ending.cancel()
        await in_thread(self.folder.release)
