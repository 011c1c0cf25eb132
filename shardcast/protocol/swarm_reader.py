"""A reader of the frames of a stream: bytes are received where they stay until a piece is whole."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass

from shardcast.protocol.piece_numbers import MAX_PIECES
from shardcast.protocol.swarm_frames import (
    BYTES,
    BYTES_HEAD_SIZE,
    HEAD_SIZE,
    MAX_CONTROL,
    Control,
    FrameError,
    decode,
    decode_head,
    decode_request,
)

_ROOM = HEAD_SIZE + MAX_CONTROL
"""Bytes of the buffer beside a piece: the longest frame possible between the piece's bytes."""
_LARGE = 1 << 20
"""Bytes of a buffer above which memory is taken only for the parts written to."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A whole piece of a request.

    Attributes:
        request: the request.
        data: the bytes, valid until the next call for a frame.
    """

    request: int
    data: memoryview


class FrameReader:
    """A reader of frames with a buffer of bounded size, whatever comes.

    The owner receives bytes into ``get_buffer()``, tells their number by ``received()``, and takes frames
    with ``next_frame()`` until there is none. The bytes of a piece lie at the front of the buffer; heads of
    frames and whole frames between them are cut out, so nothing else is copied.

    Attributes:
        max_piece: bytes of the largest piece.
        max_pieces: number of pieces of the version, as far as known.
    """

    def __init__(self, length_of: Callable[[int], int], max_piece: int = 0) -> None:
        """Read frames.

        Args:
            length_of: returns the bytes of the piece of a request, given the request; 0 where no bytes of
                this request may come. Called for the first bytes of each piece.
            max_piece: bytes of the largest piece.
        """
        self.max_pieces = MAX_PIECES
        self._length_of = length_of
        self._view = memoryview(b"")
        self._filled = 0
        self.take_pieces_of(max_piece)
        self._held = 0  # bytes of the piece, at the front
        self._length = 0  # of the piece; 0 between two pieces
        self._portion = 0  # bytes that are still to come in the frame
        self._request = 0
        self._given = False  # whether the owner has the piece

    def take_pieces_of(self, max_piece: int) -> None:
        """Take pieces of at most so many bytes from now on; to be called between two pieces only."""
        self.max_piece = max_piece
        size = max_piece + _ROOM
        view = memoryview(bytearray(size) if size <= _LARGE else mmap.mmap(-1, size))
        if self._filled:
            view[: self._filled] = self._view[: self._filled]
        self._view = view

    def get_buffer(self) -> memoryview:
        """Return where the next bytes go; never empty once ``next_frame`` has returned None."""
        return self._view[self._filled :]

    def received(self, size: int) -> None:
        """Record that ``size`` bytes were received into the buffer."""
        self._filled += size

    @property
    def missing(self) -> int:
        """The missing bytes of the piece under way, without heads of frames; 0 between two pieces."""
        return max(0, self._length - self._filled) if self._length else 0

    @property
    def request(self) -> int | None:
        """The request whose piece is under way; None between two pieces."""
        return self._request if self._length else None

    @property
    def is_amid(self) -> bool:
        """Whether a frame or a piece has begun and is not whole."""
        return bool(self._filled or self._length)

    def drop(self, request: int) -> None:
        """Forget the begun piece of a request that gets no more bytes.

        Nothing happens amid a frame, or where no piece of this request has begun.
        """
        if self._length and self._request == request and not self._portion and not self._given:
            self._cut(0, self._held)
            self._held = self._length = 0

    def next_frame(self) -> Control | Piece | None:
        """Return the next whole frame or piece; None until more bytes have come.

        Raises:
            FrameError: the bytes are no frame, or unexpected bytes of a piece. The reader is unusable then.
        """
        if self._given:
            self._cut(0, self._length)
            self._held = self._length = 0
            self._given = False
        while True:
            if self._portion:
                if piece := self._take_portion():
                    return piece
                if self._portion:
                    return None
                continue
            beyond = self._filled - self._held
            if beyond < HEAD_SIZE:
                return None
            kind, length = decode_head(self._view, self._held)
            if kind == BYTES:
                if beyond < BYTES_HEAD_SIZE:
                    return None
                self._begin_portion(decode_request(self._view, self._held), length - HEAD_SIZE)
                self._cut(self._held, BYTES_HEAD_SIZE)
                continue
            end = self._held + HEAD_SIZE + length
            if self._filled < end:
                return None
            payload = bytes(self._view[self._held + HEAD_SIZE : end])
            self._cut(self._held, HEAD_SIZE + length)
            if control := decode(kind, payload, self.max_pieces):
                return control

    def _begin_portion(self, request: int, size: int) -> None:
        """Begin with the bytes of a request in one frame.

        Raises:
            FrameError: no bytes of this request may come now, or not so many.
        """
        if not self._length:
            self._length, self._request = self._length_of(request), request
            if not 0 < self._length <= self.max_piece:
                raise FrameError(f"bytes of request {request}, which was not asked for")
        elif request != self._request:
            raise FrameError(f"bytes of request {request} amid a piece of request {self._request}")
        self._portion = size

    def _take_portion(self) -> Piece | None:
        """Take the received bytes of a portion; return the piece when whole, else None.

        Raises:
            FrameError: the portion has more bytes than were asked for.
        """
        if not self._length:  # the portion goes on with the request's next piece
            self._length = self._length_of(self._request)
            if not 0 < self._length <= self.max_piece:
                raise FrameError(f"more bytes of request {self._request} than were asked for")
        size = min(self._filled - self._held, self._portion, self._length - self._held)
        self._held += size
        self._portion -= size
        if self._held < self._length:
            return None
        self._given = True
        return Piece(self._request, self._view[: self._length])

    def _cut(self, start: int, size: int) -> None:
        """Cut bytes out of the buffer."""
        if size:
            left = self._filled - size
            self._view[start:left] = self._view[start + size : self._filled]
            self._filled = left
