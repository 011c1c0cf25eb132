"""The payload that is sent to an origin elsewhere: a file, or a stream of which only the last bytes are kept.

A source hashes its bytes once, in order, in a thread beside the sending.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import platform
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol, Self

from shardcast.concurrency import cancel, in_thread
from shardcast.digest import new_hasher
from shardcast.disk_errors import disk_errors
from shardcast.errors import PayloadChanged, TransferFailed
from shardcast.file_identity import FileIdentity
from shardcast.sharding.publishing import check_payload

_CHUNK = 1 << 20
"""Bytes that are read at a time."""
_RETAINED = 32 << 20
"""Bytes of a stream that one request sends at most; they are kept until the origin has them."""
_SEGMENT_SECONDS = 5.0
"""Seconds that one request waits for bytes of a stream at most: within the pace of a listener, and often
enough for the origin to know that the sender is there."""


class PayloadSource(Protocol):
    """A payload to send."""

    @property
    def name(self) -> str:
        """Name of the payload."""

    @property
    def size(self) -> int | None:
        """Bytes of the payload; None while they are not known."""

    @property
    def resumable(self) -> bool:
        """Whether another run can go on where this one stopped."""

    def ended_at(self, offset: int) -> bool:
        """Return whether the payload is known to end at ``offset``."""

    async def seek(self, offset: int) -> None:
        """Prepare to send from ``offset`` on, which is what the origin has; hash what comes before.

        Raises:
            TransferFailed: bytes from there on are not here any more.
            LocalDiskError: the payload can't be read.
        """

    def chunks(self, offset: int) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of one request, from ``offset`` on.

        Raises:
            LocalDiskError: the payload can't be read.
        """

    def sha256(self) -> str:
        """Return the digest in hex, once all bytes were yielded or skipped."""

    def check_unchanged(self) -> None:
        """Check that the payload is still what was sent.

        Raises:
            PayloadChanged: it was written to.
        """


class ReadSource(ABC):
    """A payload on the disk to send, which another run can read again.

    Attributes:
        size: the bytes to send.
    """

    size: int

    def __init__(self, unhashed: int = 0) -> None:
        """Read nothing yet; the first ``unhashed`` bytes are not in the digest."""
        self._hasher, self._hashed = new_hasher("sha256"), unhashed

    @property
    def resumable(self) -> bool:
        """True: the same payload is found again by ``key``."""
        return True

    def ended_at(self, offset: int) -> bool:
        """Return whether ``offset`` is the payload's end."""
        return offset >= self.size

    async def seek(self, offset: int) -> None:
        """Hash what the origin has already from an earlier run."""
        while self._hashed < offset:
            await in_thread(self._next, self._hashed)

    async def chunks(self, offset: int) -> AsyncGenerator[bytes, None]:
        """Yield the payload from ``offset`` on; the next chunk is read and hashed while one is sent."""
        data = await in_thread(self._next, offset)
        while data:
            offset += len(data)
            following = asyncio.ensure_future(in_thread(self._next, offset))
            try:
                yield data
                data = await following
            finally:
                await cancel([following])
                if not following.cancelled():
                    following.exception()

    def _next(self, offset: int) -> bytes:
        """Read from ``offset`` on, and hash what was not hashed before; in a thread.

        Raises:
            PayloadChanged: the payload is not what it was.
            LocalDiskError: it can't be read.
        """
        data = self._read(offset, min(_CHUNK, self.size - offset))
        if offset <= self._hashed < offset + len(data):
            self._hasher.update(memoryview(data)[self._hashed - offset :])
            self._hashed = offset + len(data)
        return data

    @abstractmethod
    def _read(self, offset: int, length: int) -> bytes:
        """Return bytes from ``offset`` on, at most ``length``; none at the end."""

    def sha256(self) -> str:
        """Return the digest of the payload in hex."""
        return self._hasher.hexdigest()


class FileSource(ReadSource):
    """A file to send.

    Attributes:
        path: the file.
        size: its bytes when it was opened.
    """

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            PayloadMissing: there is no such file.
            LocalDiskError: it can't be read.
        """
        super().__init__()
        check_payload(path)
        self.path = path
        with disk_errors("could not read", path):
            self._file = path.open("rb", buffering=0)
            self._before = FileIdentity.from_stat(os.fstat(self._file.fileno()))
        self.size = self._before.size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.name

    def key(self, **options: Any) -> str:
        """Return the digest that another run of the same command finds its upload by.

        The digest of the whole payload decides at the end, so that this may err.
        """
        inode, size, mtime_ns = self._before[:3]
        words = [platform.node(), str(self.path.absolute()), inode, size, mtime_ns, options]
        return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()

    def _read(self, offset: int, length: int) -> bytes:
        """Return bytes of the file.

        Raises:
            PayloadChanged: the file is shorter than it was.
            LocalDiskError: it can't be read.
        """
        with disk_errors("could not read", self.path):
            data = os.pread(self._file.fileno(), length, offset)
        if not data and offset < self.size:
            raise self._changed()
        return data

    def check_unchanged(self) -> None:
        """Check that nothing wrote to the file since it was opened.

        Raises:
            PayloadChanged: something did.
        """
        with disk_errors("could not read", self.path):
            now = FileIdentity.from_stat(os.fstat(self._file.fileno()))
        if not now.same_content(self._before):
            raise self._changed()

    def _changed(self) -> PayloadChanged:
        return PayloadChanged(
            f"can't broadcast {self.path}: it changed while it was sent; write it elsewhere, rename it "
            "when it is whole, then broadcast it"
        )


class StreamSource:
    """A stream to send. The bytes that the origin may still lack are kept, at most 32 MiB.

    Attributes:
        name: name of the payload.
    """

    def __init__(
        self, name: str, read: Callable[[int], Awaitable[bytes]], segment_seconds: float = _SEGMENT_SECONDS
    ) -> None:
        """Read nothing yet.

        Args:
            name: name of the payload.
            read: returns the next bytes, at most so many; none at the end.
            segment_seconds: seconds that one request waits for bytes at most.
        """
        self.name = name
        self._read = read
        self._segment_seconds = segment_seconds
        self._hasher = new_hasher("sha256")
        self._retained: deque[bytes] = deque()
        self._start = self._end = 0  # of what is retained
        self._over = False
        self._reading: asyncio.Future[bytes] | None = None

    @property
    def size(self) -> int | None:
        """Bytes of the stream; None before its end."""
        return self._end if self._over else None

    @property
    def resumable(self) -> bool:
        """False: another run can't read the bytes again."""
        return False

    def ended_at(self, offset: int) -> bool:
        """Return whether the stream has ended at ``offset``."""
        return self._over and offset == self._end

    async def seek(self, offset: int) -> None:
        """Drop what the origin has.

        Raises:
            TransferFailed: it lacks bytes that were dropped.
        """
        if not self._start <= offset <= self._end:
            raise TransferFailed(
                f"the origin stands at byte {offset}, and of {self.name} only the bytes from {self._start} "
                f"to {self._end} are still here; a stream can't be sent again"
            )
        while self._retained and self._start + len(self._retained[0]) <= offset:
            self._start += len(self._retained.popleft())

    async def chunks(self, offset: int) -> AsyncGenerator[bytes, None]:
        """Yield what is retained from ``offset`` on, then what comes, for some seconds or 32 MiB."""
        loop, position = asyncio.get_running_loop(), self._start
        deadline = loop.time() + self._segment_seconds
        for part in list(self._retained):
            if position + len(part) > offset:
                yield part[max(0, offset - position) :]
            position += len(part)
        while not self._over and self._end - self._start < _RETAINED:
            if self._reading is None:
                self._reading = asyncio.ensure_future(self._read(_CHUNK))
            # Not cancelled at the deadline: what it reads then goes out with the next request.
            await asyncio.wait([self._reading], timeout=max(0.0, deadline - loop.time()))
            if not self._reading.done():
                return
            reading, self._reading = self._reading, None
            data = reading.result()
            if not data:
                self._over = True
                return
            await in_thread(self._hasher.update, data)
            self._retained.append(data)
            self._end += len(data)
            yield data

    def sha256(self) -> str:
        """Return the digest of the stream in hex."""
        return self._hasher.hexdigest()

    def check_unchanged(self) -> None:
        """Do nothing: the bytes of a stream are read once."""

    async def close(self) -> None:
        """End a read that is under way."""
        if self._reading:
            await cancel([self._reading])
            if not self._reading.cancelled():
                self._reading.exception()
