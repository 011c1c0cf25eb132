"""The outgoing frames of one end of a stream: small ones at once, between portions of pieces."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from shardcast.fair_limit import Share
from shardcast.protocol.swarm_frames import RefuseFrame, RefuseReason, bytes_head, encode
from shardcast.server.cached_reads import CachedReader
from shardcast.swarm.links import GivenPiece
from shardcast.swarm.outlets import Outlet

PORTION = 64 << 10
"""Bytes of a request in one frame, the maximum wait of a small frame."""
MAX_UNSENT = 4 << 20
"""Maximum bytes of waiting small frames; an end that takes no more is left. A set of all possible pieces of a
version, as bits, takes an eighth of it."""


class TooSlow(ConnectionError):
    """Another end too slow to take the small frames."""


class FileChanged(OSError):
    """A file changed since its bytes were verified."""


@dataclass(eq=False)
class _Part:
    """Bytes of a file for a request, or a part of these.

    Attributes:
        request: the request.
        file: a descriptor, closed at the part's end; -1 where ``chunk`` has the bytes.
        offset: offset of the next byte in the file.
        left: bytes without a frame yet.
        done: ends when all bytes were handed over.
        chunk: the bytes, where they come from memory.
        ends: the piece, where these bytes are its last.
        dropped: whether no further frame is to begin.
    """

    request: int
    file: int
    offset: int
    left: int
    done: asyncio.Future[None]
    chunk: bytes = b""
    ends: GivenPiece | None = None
    dropped: bool = False


class FrameSender:
    """The outgoing frames of one end of a stream.

    Attributes:
        progress: bytes taken by the connection so far.
    """

    def __init__(self, outlet: Outlet, failed: Callable[[OSError], None], share: Share | None = None) -> None:
        """Send to an outlet.

        Args:
            outlet: takes the bytes.
            failed: called with the error that ended the connection.
            share: share of the upload limit; None without one.
        """
        self._outlet = outlet
        self._failed = failed
        self._share = share
        self._giving = asyncio.Lock()
        self._control = bytearray()
        self._head = b""  # what is left of the head of the frame that is being sent
        self._portion = 0  # bytes that are left of it
        self._part: _Part | None = None
        self._next: _Part | None = None  # behind a part that was dropped amid a frame
        self._reader: CachedReader | None = None
        self._read_file: BinaryIO | None = None
        self._waits = False
        self._closed = False
        self.progress = 0

    @property
    def is_busy(self) -> bool:
        """Whether anything waits for the connection."""
        return bool(self._control or self._part or self._head)

    def send(self, data: bytes) -> None:
        """Send small frames. Where the other end does not take them, the connection ends."""
        if self._closed or not data:
            return
        self._control += data
        if len(self._control) > MAX_UNSENT:
            self._fail(TooSlow(f"it takes nothing, and {len(self._control)} bytes wait for it"))
        elif not self._waits:
            self._pump()

    async def give(self, request: int, piece: GivenPiece) -> None:
        """Answer a request with bytes of a file.

        A cancelled call begins no further frame. The other end is told, unless it gets all bytes.

        Raises:
            OSError: the connection ended, or the file can't be read or was changed. The connection is
                unusable then.
        """
        offset, left = piece.offset, piece.length
        part: _Part | None = None
        try:
            async with self._giving:
                while left:
                    size = left if self._share is None else await self._share.take(min(left, PORTION), left)
                    while size:
                        part = None
                        ends = piece if size == left else None
                        part = await self._part_of(request, piece.file, offset, size, ends=ends)
                        count = part.left
                        offset, left, size = offset + count, left - count, size - count
                        await self._hand_over(part)
        except asyncio.CancelledError:
            if part is None or not self._finishes(part) or left:
                self.send(encode(RefuseFrame(request, RefuseReason.CANCELLED)))
            raise

    async def _part_of(
        self, request: int, file: BinaryIO, offset: int, size: int, *, ends: GivenPiece | None
    ) -> _Part:
        """Return a part of the answer to a request, at most ``size`` bytes.

        Args:
            request: the request.
            file: has the bytes.
            offset: offset of the first one.
            size: maximum bytes to go now.
            ends: the piece, where these are its last bytes.

        Raises:
            OSError: the file can't be read, or was changed.
        """
        self._check_open()
        done = asyncio.get_running_loop().create_future()
        if self._outlet.has_sendfile:
            return _Part(request, os.dup(file.fileno()), offset, size, done, ends=ends)
        if self._reader is None or self._read_file is not file:
            self._reader, self._read_file = CachedReader(file, PORTION), file
        chunk = await self._reader.read(offset, min(size, PORTION))
        self._check_open()
        if ends and len(chunk) == size:
            _check_unchanged(ends)
        return _Part(request, -1, offset, len(chunk), done, bytes(chunk))

    def _check_open(self) -> None:
        """Check for the connection.

        Raises:
            ConnectionResetError: the connection has ended.
        """
        if self._closed:
            raise ConnectionResetError("the stream has ended")

    async def _hand_over(self, part: _Part) -> None:
        """Wait until the connection has taken a part.

        Raises:
            OSError: the connection ended, or the file was changed or can't be read.
        """
        if self._part is None:
            self._part = part
        else:
            self._next = part
        if not self._waits:
            self._pump()
        await part.done

    def _finishes(self, part: _Part) -> bool:
        """Return whether all bytes of a part go; otherwise none of its further frames begins."""
        if not part.left:
            return True
        if part is self._next:
            self._next = None
            _close(part)
        else:
            part.dropped = True
            if not (self._head or self._portion):
                self._end_part()
        return False

    def _end_part(self) -> None:
        """Go on to the next part: the last byte of this one has gone, or the part was dropped."""
        part, self._part, self._next = self._part, self._next, None
        if part:
            _close(part)
            if not part.done.done():
                part.done.set_result(None)

    def _pump(self) -> None:
        """Hand bytes over as long as the connection takes them."""
        try:
            while self._step():
                pass
        except OSError as error:
            self._fail(error)

    def _step(self) -> bool:
        """Hand some bytes over, and return whether to go on."""
        part = self._part
        if self._head:
            sent = self._outlet.send(self._head, more=bool(self._portion))
            self._head = self._head[sent:]
        elif self._portion and part:
            if part.ends and not part.left:
                _check_unchanged(part.ends)
            sent = self._outlet.send_file(part.file, part.offset, self._portion)
            part.offset += sent
            self._portion -= sent
        elif self._control:
            sent = self._outlet.send(self._control)
            del self._control[:sent]
        elif part and part.left and not part.dropped:
            self._begin_portion(part)
            return True
        else:
            self._wait(False)
            return False
        self.progress += sent
        if part and not (self._head or self._portion) and (part.dropped or not part.left):
            self._end_part()
        if not sent:
            self._wait(True)  # until nothing is left to send: to ask anew after each portion costs as much
        return bool(sent)

    def _begin_portion(self, part: _Part) -> None:
        """Begin a frame with bytes of a part."""
        size = min(part.left, PORTION)
        part.left -= size
        self._head = bytes_head(part.request, size)
        if part.chunk:
            self._head += part.chunk
        else:
            self._portion = size

    def _wait(self, waits: bool) -> None:
        """Have the outlet tell when it takes more, or not any more."""
        if waits is not self._waits:
            self._waits = waits
            self._outlet.notify(self._pump if waits else None)

    def _fail(self, error: OSError) -> None:
        """Close with an error, and report it by ``failed``."""
        if not self._closed:
            self.close(error)
            self._failed(error)

    def close(self, error: OSError | None = None) -> None:
        """Send no more; waiting callers get the error."""
        self._closed = True
        self._waits = False
        self._control.clear()
        self._head, self._portion = b"", 0
        for part in filter(None, (self._part, self._next)):
            _close(part)
            if not part.done.done():
                part.done.set_exception(error or ConnectionResetError("the stream has ended"))
                part.done.exception()  # retrieved: a caller that was cancelled waits no more
        self._part = self._next = None
        self._outlet.close()


def _check_unchanged(piece: GivenPiece) -> None:
    """Check a file for its verified bytes, before the last ones of a piece go.

    So a piece whose file changes in the middle does not come whole, and costs its sender no trust.

    Raises:
        FileChanged: the file has other bytes.
    """
    if not piece.is_unchanged():
        raise FileChanged("the file of a piece was changed while the piece was being sent")


def _close(part: _Part) -> None:
    """Close the file of a part."""
    if part.file >= 0:
        os.close(part.file)
        part.file = -1
