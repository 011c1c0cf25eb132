"""A stream of frames between two neighbours: bytes in and out, and the deadlines of both.

Frames are taken on the event loop as they come. A piece still in the hands of the stream's user (``came``)
holds the frames behind it back, so a slow disk slows the sender down. Where bytes come slowly the loop is
woken for the whole piece under way, not for each segment: this halves the cost of receiving on a slow link.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, cast

from shardcast.errors import ShardcastError
from shardcast.fair_limit import Share
from shardcast.protocol.swarm_frames import ByeFrame, Control, FrameError, PingFrame, encode
from shardcast.protocol.swarm_reader import FrameReader, Piece
from shardcast.swarm.links import GivenPiece
from shardcast.swarm.outlets import SocketOutlet, TransportOutlet
from shardcast.swarm.sender import FrameSender

log = logging.getLogger(__name__)

PING_SECONDS = 1.0
"""Seconds without a frame to the other end until it gets a ping."""
SILENCE_SECONDS = 5.0
"""Seconds without a byte from the other end, or without progress of waiting bytes there, until the stream
ends."""
FRAME_SECONDS = 30.0
"""Maximum seconds of a frame or a piece from its first byte to its last."""
MAX_FRAMES = 4000
"""Small frames within ``LOOK_SECONDS``. Others send some hundred a second; parsing a flood would hold up the
loop."""
LOOK_SECONDS = 0.5
"""Seconds between two looks at a stream, and maximum seconds for bytes of a piece under way to wait unseen.
"""
_MIN_WAIT_BYTES = 16 << 10
"""Minimum missing bytes of a piece for a late wake-up of the loop."""
_CLOSE_SECONDS = 1.0
"""Seconds for the last frames to leave after the close of a stream."""


class StreamUser(Protocol):
    """The handler of a stream's frames."""

    def took(self, frame: Control) -> None:
        """Take a small frame.

        Raises:
            FrameError: the frame must not come now. The stream ends.
        """

    def length_of(self, request: int) -> int:
        """Return the bytes of the next piece of a request; 0 where none may come."""

    def progressed(self, request: int) -> None:
        """Record new bytes of a request."""

    async def came(self, request: int, data: memoryview) -> None:
        """Take a piece, whose bytes are there until this returns."""

    def ended(self, reason: str) -> None:
        """Record the end of the stream; called once."""


class SwarmStream(asyncio.BufferedProtocol):
    """One end of a stream.

    Attributes:
        reader: reader of the incoming frames; takes no pieces before it knows their size.
        user: handler of the frames.
        is_open: whether the stream has not ended.
    """

    def __init__(
        self,
        user: StreamUser,
        *,
        uploads: Share | None = None,
        downloads: Share | None = None,
        silence: float = SILENCE_SECONDS,
        ended: Callable[[SwarmStream], object] = lambda stream: None,
    ) -> None:
        """Wait for ``attach``.

        Args:
            user: takes the frames.
            uploads: the stream's share of the upload limit; None without one.
            downloads: the same of the download limit.
            silence: seconds without a byte until the stream ends.
            ended: called with the stream when it has ended.
        """
        self.reader = FrameReader(lambda request: self.user.length_of(request))
        self.is_open = True
        self.user = user
        self._uploads, self._downloads = uploads, downloads
        self._silence = silence
        self._forget = ended
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._taking: asyncio.Task[None] | None = None
        self._previous: asyncio.BaseProtocol | None = None
        self._wake_at = 1
        self._hasty = False  # whether the piece under way comes slowly, and each segment is looked at
        self._waiting = 0  # bytes that were not read at the last look
        self._paused = False
        self._frames = 0  # small ones since the last look
        self._reads = 0
        self._reads_then = 0
        self._timer: asyncio.TimerHandle | None = None
        self._lingering: asyncio.TimerHandle | None = None

    def attach(self, transport: asyncio.BaseTransport, early: bytes = b"") -> None:
        """Begin on a connection, with this as its protocol from now on.

        Args:
            transport: connected, with nothing waiting to be sent.
            early: bytes received already.

        Raises:
            OSError: there are too many open files.
        """
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no asyncio.Transport
        sock = self._transport.get_extra_info("socket")
        is_plain = self._transport.get_extra_info("sslcontext") is None
        try:
            outlet = SocketOutlet(sock) if is_plain else TransportOutlet(self._transport)
        except OSError:
            self._close_shares()
            self._transport.abort()
            raise
        self._outlet: SocketOutlet | TransportOutlet = outlet
        self._sender = FrameSender(outlet, lambda error: self._end(_words(error)), self._uploads)
        now = self._loop.time()
        self._heard_at = self._sent_at = self._taken_at = self._begun_at = now
        self._told = 0
        self._previous = self._transport.get_protocol()
        self._transport.set_protocol(self)
        if not self._transport.is_reading():
            self._transport.resume_reading()
        self._look()
        if early:
            self._loop.call_soon(self._take_early, early)

    @property
    def transport(self) -> asyncio.Transport:
        """The connection."""
        return self._transport

    @property
    def heard_at(self) -> float:
        """When bytes came last, by the loop's clock."""
        return self._heard_at

    # Out

    def send(self, *frames: Control) -> None:
        """Send small frames."""
        if self.is_open:
            self._sender.send(encode(frames[0]) if len(frames) == 1 else b"".join(map(encode, frames)))

    async def give(self, request: int, piece: GivenPiece) -> None:
        """Answer a request with bytes of a file; see ``FrameSender.give``.

        Raises:
            OSError: the stream ended, or the file can't be read, which ends the stream.
        """
        try:
            await self._sender.give(request, piece)
        except OSError as error:
            self._end(_words(error))
            raise

    # In, called by the transport

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go."""
        return self.reader.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Take received bytes from the buffer, and handle the frames that are complete (by asyncio)."""
        self._heard_at = self._loop.time()
        self._reads += 1
        self.reader.received(nbytes)
        if self._taking is None:
            self._take_frames()
        self._adapt()

    def eof_received(self) -> bool:
        """End: the other end sends no more."""
        self._end("the neighbour ended the stream")
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """End, and tell the protocol before this one."""
        self._end(_words(error) if error else "the connection ended")
        if self._previous is not None:
            self._previous.connection_lost(error)

    def pause_writing(self) -> None:
        """Note that the transport's buffer is full."""
        if isinstance(self._outlet, TransportOutlet):
            self._outlet.set_full(True)
        if self._previous is not None:
            self._previous.pause_writing()

    def resume_writing(self) -> None:
        """Note that the transport's buffer has room."""
        if self._previous is not None:
            self._previous.resume_writing()
        if isinstance(self._outlet, TransportOutlet):
            self._outlet.set_full(False)

    # Frames

    def _take_early(self, early: bytes) -> None:
        """Take bytes received before this was the transport's protocol."""
        while early and self.is_open:
            buffer = self.get_buffer(len(early))
            size = min(len(buffer), len(early))
            buffer[:size], early = early[:size], early[size:]
            self.buffer_updated(size)

    def _take_frames(self) -> None:
        """Take the whole frames, up to a piece."""
        try:
            while self.is_open and (frame := self.reader.next_frame()) is not None:
                self._begun_at = self._heard_at
                if isinstance(frame, Piece):
                    self._hasty = False
                    self._begin(self._take_piece(frame))
                    return
                self._frames += 1
                if self._frames > MAX_FRAMES:
                    raise FrameError(f"more than {MAX_FRAMES} frames within {LOOK_SECONDS:g} s")
                if isinstance(frame, ByeFrame):
                    self._end(f"the neighbour ended the stream: {frame.reason}")
                else:
                    self.user.took(frame)
        except FrameError as error:
            self.close(f"the neighbour sent what makes no sense: {error}")

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Run the work on a piece; frames behind the piece wait."""
        self._taking = asyncio.ensure_future(work)

    async def _take_piece(self, piece: Piece) -> None:
        """Have a piece taken, and go on with bytes received meanwhile; a failure ends the stream."""
        try:
            if self._downloads:
                await self._downloads.take_all(len(piece.data))
            await self.user.came(piece.request, piece.data)
        except BaseException as error:
            self._end(_words(error))
            if isinstance(error, (OSError, ShardcastError)):
                return
            raise
        finally:
            self._taking = None
        if self.is_open:
            self._take_frames()
            self._adapt()

    def _adapt(self) -> None:
        """Report new bytes of a piece, read on or not, and choose for how many bytes the loop is woken."""
        if not self.is_open:
            return
        if (request := self.reader.request) is not None:
            self.user.progressed(request)
        full = not len(self.reader.get_buffer())
        if full is not self._paused:
            self._paused = full
            (self._transport.pause_reading if full else self._transport.resume_reading)()
        missing = 0 if self._hasty else self.reader.missing
        wake_at = missing if missing >= _MIN_WAIT_BYTES else 1
        if wake_at != self._wake_at and isinstance(self._outlet, SocketOutlet) and sys.platform == "linux":
            self._wake_at = wake_at
            self._outlet.wake_at(wake_at)

    # Deadlines and the end

    def _look(self) -> None:
        """End the stream after a missed deadline, or send a due ping; again every ``LOOK_SECONDS``."""
        if not self.is_open:
            return
        self._timer = self._loop.call_later(LOOK_SECONDS, self._look)
        now = self._loop.time()
        self._frames = 0
        self._note_waiting()
        if self.reader.missing and self._reads == self._reads_then and not self._hasty:
            self._hasty = True  # it comes slowly: what is there is progress, which stalls are told from
            self._adapt()
        self._reads_then = self._reads
        if self._sender.progress != self._told:
            self._told, self._taken_at, self._sent_at = self._sender.progress, now, now
        elif not self._sender.is_busy:
            self._taken_at = now
        if not self.reader.is_amid or self._taking is not None:
            self._begun_at = now
        if self._taking is not None:
            self._heard_at = max(self._heard_at, now - self._silence / 2)  # not the neighbour is slow
        if now - self._heard_at >= self._silence:
            self.close(f"nothing came for {self._silence:g} s")
        elif now - self._taken_at >= self._silence:
            self._end(f"the neighbour took nothing for {self._silence:g} s")
        elif now - self._begun_at >= FRAME_SECONDS:
            self.close(f"a frame was not whole within {FRAME_SECONDS:g} s")
        elif now - self._sent_at >= PING_SECONDS and not self._sender.is_busy:
            self.send(PingFrame())

    def _note_waiting(self) -> None:
        """Count bytes waiting in the socket as progress: the loop is woken for the whole piece."""
        request = self.reader.request
        if request is None or self._wake_at == 1 or not isinstance(self._outlet, SocketOutlet):
            return
        before, self._waiting = self._waiting, self._outlet.waiting()
        if self._waiting != before:
            self.user.progressed(request)

    def close(self, reason: str) -> None:
        """End the stream, and tell the other end why; ``reason`` is for the logs of both."""
        if not self.is_open:
            return
        self.send(ByeFrame(reason))
        if self.is_open:
            self._end(reason, linger=self._sender.is_busy)

    def _end(self, reason: str, *, linger: bool = False) -> None:
        """End the stream; with ``linger`` the connection stays a while for the last frames."""
        if not self.is_open:
            return
        self.is_open = False
        if self._timer:
            self._timer.cancel()
        if linger:
            self._lingering = self._loop.call_later(_CLOSE_SECONDS, self.drop)
        else:
            self._drop()
        self._ended.set()
        self._forget(self)
        self.user.ended(reason)

    def drop(self) -> None:
        """Drop the connection of an ended stream that still waits for its last frames to leave."""
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
            self._drop()

    def _drop(self) -> None:
        """Drop the connection, and close the sender and the shares."""
        self._sender.close()
        self._close_shares()
        if not self._transport.is_closing():
            if self._outlet.has_sendfile:
                self._transport.abort()
            else:
                self._transport.close()

    def _close_shares(self) -> None:
        """Close this stream's shares of the limits."""
        for share in (self._uploads, self._downloads):
            if share:
                share.close()

    async def wait_ended(self) -> None:
        """Wait for the end of the stream; a cancelled caller ends the stream."""
        try:
            await self._ended.wait()
        finally:
            self._end("this node ends the stream")


def _words(error: BaseException) -> str:
    """Return an error in words."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
