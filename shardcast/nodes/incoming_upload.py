"""One upload at an origin: its bytes come in order, one request at a time, and its end publishes them."""

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
    """Return the folder that an upload announced, as it is published."""
    return ListedFolder(FolderFacts(folder.name, folder.entries), folder.list_size)


class IncomingUpload(ABC):
    """An upload, stored (``StoredUpload``) or live (``LiveUpload``).

    Attributes:
        id: its id.
        folder: its folder.
        last_used: when its sender was last heard of, by ``clock``.
        confirm_seconds: seconds that the sender has to confirm.
    """

    def __init__(self, folder: UploadFolder, clock: Callable[[], float]) -> None:
        self.id = folder.folder.name
        self.folder = folder
        self.last_used = clock()
        self.confirm_seconds = CONFIRM_SECONDS
        self._clock = clock
        self._receiving: asyncio.Future[None] | None = None
        self._ending: UploadEnding | None = None

    # What it is

    @property
    def request(self) -> UploadRequest:
        """Its announcement."""
        return self.folder.record.request

    @property
    def version(self) -> str | None:
        """The version that it is published as; None before."""
        return self.folder.record.version if self.complete else None

    @property
    def complete(self) -> bool:
        """Whether its version is complete."""
        return self.folder.record.complete

    @property
    def active(self) -> bool:
        """Whether a request about it is under way, or it is being published."""
        return self._receiving is not None or self.ending is not None

    @property
    def ending(self) -> UploadEnding | None:
        """Its end, where it is being published; None before."""
        return self._ending if self._ending and self._ending.running else None

    @property
    @abstractmethod
    def offset(self) -> int:
        """Bytes that are received and kept."""

    @property
    def state(self) -> UploadState:
        """How far it is."""
        if self.complete:
            return UploadState.COMPLETE
        return UploadState.PUBLISHING if self.ending else UploadState.RECEIVING

    def status(self) -> UploadStatus:
        """Return its status.

        Raises:
            ShardcastError: it has failed.
        """
        self.check_open()
        self.last_used = self._clock()
        return UploadStatus(self.id, self.offset, self.state, self.version, self.request.folder is not None)

    @abstractmethod
    def check_open(self) -> None:
        """Check that the upload has not failed.

        Raises:
            ShardcastError: it has.
        """

    # Its bytes

    async def append(self, offset: int, chunks: AsyncIterable[bytes]) -> None:
        """Take bytes from ``offset`` on; what came is kept also where the body breaks off.

        A request that is still under way ends: its sender has begun anew, and its connection may be dead.

        Raises:
            WrongOffset: the upload stands elsewhere, or is whole already.
            UsageError: there are more bytes than the announcement says.
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
        """End the request that brings bytes; what it brought is kept."""
        while (receiving := self._receiving) is not None:
            await cancel([receiving])
            if self._receiving is receiving:
                self._receiving = None

    async def _receive(self, chunks: AsyncIterable[bytes]) -> None:
        """Write a body, then make it as durable as it gets."""
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

    # Its end

    async def finish(self, whole: WholePayload) -> AsyncGenerator[Mapping[str, Any], None]:
        """Check and cut the whole payload; yield progress, then that it is ready, or complete already.

        Raises:
            WrongOffset: bytes are missing.
            IntegrityError: the payload is not the sender's; nothing of it is published or kept.
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
        """Complete the version, whose sender still waits for it, and return its name.

        Raises:
            WrongOffset: it was not finished before.
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
        """Write down which version it becomes, before that can be complete."""

    async def close(self) -> None:
        """Stop its work, unless it is complete; what it has stays for the next start."""
        await self._stop_receiving()
        if self._ending:
            await self._ending.cancel()
        await in_thread(self.folder.release)
