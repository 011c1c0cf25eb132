"""Payloads sent to an origin elsewhere: a file, or a stream with only its last bytes kept.

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
"""Bytes read at a time."""
_RETAINED = 32 << 20
"""Maximum bytes of a stream in one request; they are kept until the origin has them."""
_SEGMENT_SECONDS = 5.0
"""Maximum seconds for one request to wait for bytes of a stream: short enough for the pace rule of a
listener, and for the origin to know the sender alive."""


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
        """Prepare to send from ``offset`` on, the origin's position; hash the bytes before.

        Raises:
            TransferFailed: bytes from there on are no longer here.
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
        """Check that the payload did not change while it was sent.

        Raises:
            PayloadChanged: the payload was modified.
        """


class ReadSource(ABC):
    """A payload on the disk, readable again by a later run.

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
        """Hash the bytes sent by an earlier run."""
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
        """Read from ``offset`` on, and hash the bytes not hashed before; in a thread.

        Raises:
            PayloadChanged: the payload differs from its state at the start.
            LocalDiskError: the payload can't be read.
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
        size: bytes of the file at the time of opening.
    """

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            PayloadMissing: there is no such file.
            LocalDiskError: the file can't be read.
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
        """Return the digest by which a repeated command finds its earlier upload.

        A wrong match does no harm: the digest of the whole payload decides at the end.
        """
        inode, size, mtime_ns = self._before[:3]
        words = [platform.node(), str(self.path.absolute()), inode, size, mtime_ns, options]
        return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()

    def _read(self, offset: int, length: int) -> bytes:
        """Return bytes of the file.

        Raises:
            PayloadChanged: the file has become shorter.
            LocalDiskError: the file can't be read.
        """
        with disk_errors("could not read", self.path):
            data = os.pread(self._file.fileno(), length, offset)
        if not data and offset < self.size:
            raise self._changed()
        return data

    def check_unchanged(self) -> None:
        """Check that the file was not modified since the opening.

        Raises:
            PayloadChanged: the file was modified.
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
    """A stream to send; keeps the bytes not yet acknowledged by the origin, at most 32 MiB.

    Attributes:
        name: name of the payload.
    """

    def __init__(
        self, name: str, read: Callable[[int], Awaitable[bytes]], segment_seconds: float = _SEGMENT_SECONDS
    ) -> None:
        """Make a source; nothing is read yet.

        Args:
            name: name of the payload.
            read: returns the next bytes, at most so many; none at the end.
            segment_seconds: maximum seconds for one request to wait for bytes.
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
        """Bytes of the stream; None before the end."""
        return self._end if self._over else None

    @property
    def resumable(self) -> bool:
        """False: another run can't read the bytes again."""
        return False

    def ended_at(self, offset: int) -> bool:
        """Return whether the stream has ended at ``offset``."""
        return self._over and offset == self._end

    async def seek(self, offset: int) -> None:
        """Drop the bytes received by the origin.

        Raises:
            TransferFailed: the origin lacks bytes already dropped.
        """
        if not self._start <= offset <= self._end:
            raise TransferFailed(
                f"the origin stands at byte {offset}, and of {self.name} only the bytes from {self._start} "
                f"to {self._end} are still here; a stream can't be sent again"
            )
        while self._retained and self._start + len(self._retained[0]) <= offset:
            self._start += len(self._retained.popleft())

    async def chunks(self, offset: int) -> AsyncGenerator[bytes, None]:
        """Yield the retained bytes from ``offset`` on, then new ones, for some seconds or 32 MiB."""
        loop, position = asyncio.get_running_loop(), self._start
        deadline = loop.time() + self._segment_seconds
        for part in list(self._retained):
            if position + len(part) > offset:
                yield part[max(0, offset - position) :]
            position += len(part)
        while not self._over and self._end - self._start < _RETAINED:
            if self._reading is None:
                self._reading = asyncio.ensure_future(self._read(_CHUNK))
            # Not cancelled at the deadline: the bytes still being read go out with the next request.
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
        """End a read under way."""
        if self._reading:
            await cancel([self._reading])
            if not self._reading.cancelled():
                self._reading.exception()
