"""Frames of the stream between two neighbours of a swarm.

A frame is a byte that names its kind, three bytes with the length of its payload, and the payload; numbers
are big-endian. Both ends send frames at any time once they know each other. Readers skip frames of kinds that
they don't know, and bytes after those fields of a frame that they know, so that later versions can add both.

====== ======== =====================================================================================
kind   name     payload
====== ======== =====================================================================================
0      ping     nothing: the sender is alive
1      hello    JSON: the version that the stream is about, the sender, its ticket and its challenge
2      proof    the signature by which the sender proves that it has the key of its ticket
3      ticket   a newer ticket of the sender, of the same key
4, 5   have,    pieces that the sender has verified, or has no more: a byte 0 and runs (first piece, count:
       lost     4 bytes each), or a byte 1, the first piece (4 bytes) and bits, the lowest of each byte first
6      want     request id, and the number of a piece: 4 bytes each
7      cancel   request id: the asker wants no more of it
8      refuse   request id (4), reason (1), milliseconds to wait before asking again (2): no more comes of it
9      bytes    request id (4), and the next bytes of the request
10     bye      UTF-8: why the sender ends the stream
====== ======== =====================================================================================

A request ends when all bytes of its piece, or a refusal, have been sent; a cancelled one with either. Ids are
chosen by the asker, and no two of its requests have the same one, or are for the same piece, at a time. The
bytes of requests are sent one request after the other, in frames of at most ``MAX_PORTION``, so that a small
frame waits behind one of these at most.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from shardcast.plain_text import one_line
from shardcast.protocol.piece_numbers import MAX_PIECES, mask_of_runs, runs_of
from shardcast.protocol.swarm_hello import MAX_HELLO, HelloFrame, read_ticket
from shardcast.protocol.swarm_members import SwarmError

PING, HELLO, PROOF, TICKET, HAVE, LOST, WANT, CANCEL, REFUSE, BYTES, BYE = range(11)
HEAD_SIZE = 4
"""Bytes before the payload of a frame."""
BYTES_HEAD_SIZE = 8
"""Bytes of a frame of kind ``BYTES`` before the bytes of a request."""
MAX_CONTROL = 64 << 10
"""Bytes of the payload of a frame, other than the bytes of a request."""
MAX_PORTION = 256 << 10
"""Bytes of a request in one frame."""
MAX_PROOF = 256
"""Bytes of a proof."""
MAX_REASON = 200
"""Characters of the text of a bye."""
MAX_WAIT = 65.535
"""Maximum seconds in a refusal."""
MAX_REQUEST = (1 << 32) - 1

_HEAD = struct.Struct("!I")
_BYTES_HEAD = struct.Struct("!II")
_WANT = struct.Struct("!II")
_REFUSE = struct.Struct("!IBH")
_RUN = struct.Struct("!II")
_RUNS, _BITS = 0, 1
_RUNS_A_FRAME = (MAX_CONTROL - 1) // _RUN.size
_BITS_SIZE = MAX_CONTROL - 5


class FrameError(ValueError):
    """Bytes that are no frames of this protocol, or frames beyond its bounds."""


class RefuseReason(IntEnum):
    """The reason of a refusal; readers take an unknown reason for ``LACKS``.

    Attributes:
        LACKS: the sender does not have these pieces (any more).
        BUSY: the sender has no free slot.
        CANCELLED: the asker has cancelled the request.
        FAILED: the sender could not read the pieces.
    """

    LACKS = 0
    BUSY = 1
    CANCELLED = 2
    FAILED = 3


@dataclass(frozen=True, slots=True)
class PingFrame:
    """A sign of life."""


@dataclass(frozen=True, slots=True)
class ProofFrame:
    """The proof of having the key of the sender's ticket."""

    signature: bytes


@dataclass(frozen=True, slots=True)
class TicketFrame:
    """A newer ticket of the sender."""

    ticket: str


@dataclass(frozen=True, slots=True)
class HaveFrame:
    """Pieces verified by the sender, as a set (``piece_numbers``)."""

    pieces: int


@dataclass(frozen=True, slots=True)
class LostFrame:
    """Pieces no longer at the sender, as a set."""

    pieces: int


@dataclass(frozen=True, slots=True)
class WantFrame:
    """A request for a piece."""

    request: int
    number: int


@dataclass(frozen=True, slots=True)
class CancelFrame:
    """The end of the asker's interest in a request."""

    request: int


@dataclass(frozen=True, slots=True)
class RefuseFrame:
    """The end of a request without further bytes.

    Attributes:
        request: the request.
        reason: why.
        wait: seconds before the next request is welcome.
    """

    request: int
    reason: RefuseReason
    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class ByeFrame:
    """The end of the stream."""

    reason: str


Control = (
    HelloFrame
    | ProofFrame
    | TicketFrame
    | PingFrame
    | HaveFrame
    | LostFrame
    | WantFrame
    | CancelFrame
    | RefuseFrame
    | ByeFrame
)
"""A frame without bytes of requests."""


# Writing


def frame(kind: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    return _HEAD.pack(kind << 24 | len(payload)) + payload


def encode(control: Control) -> bytes:
    """Return a frame, or several frames for a large set of pieces; nothing for an empty set."""
    match control:
        case PingFrame():
            return frame(PING)
        case HaveFrame(pieces):
            return b"".join(frame(HAVE, part) for part in _set_payloads(pieces))
        case LostFrame(pieces):
            return b"".join(frame(LOST, part) for part in _set_payloads(pieces))
        case WantFrame(request, number):
            return frame(WANT, _WANT.pack(request, number))
        case CancelFrame(request):
            return frame(CANCEL, _HEAD.pack(request))
        case RefuseFrame(request, reason, wait):
            return frame(REFUSE, _REFUSE.pack(request, reason, round(1000 * min(max(wait, 0.0), MAX_WAIT))))
        case ByeFrame(reason):
            return frame(BYE, one_line(reason, MAX_REASON).encode())
        case HelloFrame():
            return frame(HELLO, control.payload())
        case ProofFrame(signature):
            return frame(PROOF, signature)
        case TicketFrame(ticket):
            return frame(TICKET, ticket.encode("ascii"))


def bytes_head(request: int, size: int) -> bytes:
    """Return the head of a frame with ``size`` bytes of a request."""
    return _BYTES_HEAD.pack(BYTES << 24 | size + _HEAD.size, request)


def _set_payloads(pieces: int) -> Iterator[bytes]:
    """Yield the payloads for a set of pieces: as runs, or as bits where these are shorter."""
    if pieces <= 0:
        return
    base = (pieces & -pieces).bit_length() - 1
    count = (pieces & ~(pieces << 1)).bit_count()  # of runs, each of which begins once
    if count * _RUN.size <= (pieces.bit_length() - base) // 8:
        runs = runs_of(pieces)
        for start in range(0, len(runs), _RUNS_A_FRAME):
            part = runs[start : start + _RUNS_A_FRAME]
            yield bytes((_RUNS,)) + b"".join(_RUN.pack(*run) for run in part)
        return
    bits = (pieces >> base).to_bytes((pieces.bit_length() - base + 7) // 8, "little")
    for start in range(0, len(bits), _BITS_SIZE):
        yield bytes((_BITS,)) + _HEAD.pack(base + 8 * start) + bits[start : start + _BITS_SIZE]


# Reading


def decode_head(buffer: bytes | bytearray | memoryview, offset: int) -> tuple[int, int]:
    """Return the kind of a frame and the length of its payload.

    Raises:
        FrameError: the payload is too long or too short for its kind.
    """
    (word,) = _HEAD.unpack_from(buffer, offset)
    kind, length = word >> 24, word & 0xFFFFFF
    if kind == BYTES:
        if not _HEAD.size < length <= MAX_PORTION + _HEAD.size:
            raise FrameError(f"a frame with {length} bytes of a request")
    elif length > (MAX_HELLO if kind == HELLO else MAX_CONTROL):
        raise FrameError(f"a frame of kind {kind} with {length} bytes")
    return kind, length


def decode_request(buffer: bytes | bytearray | memoryview, offset: int) -> int:
    """Return the request whose bytes a frame of kind ``BYTES`` at ``offset`` has."""
    return int(_BYTES_HEAD.unpack_from(buffer, offset)[1])


def decode(kind: int, payload: bytes, max_pieces: int = MAX_PIECES) -> Control | None:
    """Return a frame without bytes of a request; None for an unknown kind.

    Args:
        kind: kind of the frame.
        payload: payload of the frame.
        max_pieces: number of pieces of the version, the bound of memory for a set of pieces.

    Raises:
        FrameError: the payload makes no sense.
    """
    decoder = _DECODERS.get(kind)
    try:
        return decoder(payload, max_pieces) if decoder else None
    except struct.error:
        raise FrameError(f"a frame of kind {kind} with only {len(payload)} bytes") from None


def _decode_refuse(payload: bytes, _: int) -> RefuseFrame:
    """Return a refusal."""
    request, reason, wait = _REFUSE.unpack_from(payload)
    known = RefuseReason(reason) if reason in _REFUSALS else RefuseReason.LACKS
    return RefuseFrame(request, known, wait / 1000)


def _decode_want(payload: bytes, max_pieces: int) -> WantFrame:
    """Return a want.

    Raises:
        FrameError: the version does not have the piece.
    """
    request, number = _WANT.unpack_from(payload)
    _check_end(number + 1, max_pieces)
    return WantFrame(request, number)


def _decode_set(payload: bytes, max_pieces: int) -> int:
    """Return a set of pieces.

    Raises:
        FrameError: the payload is no set, or has a piece beyond those of the version.
    """
    form = payload[0] if payload else -1
    if form == _RUNS and len(payload) % _RUN.size == 1:
        runs, end = list(_RUN.iter_unpack(memoryview(payload)[1:])), 0
        for first, count in runs:
            if first < end or not count:
                raise FrameError("runs of pieces that overlap, are empty or out of order")
            end = first + count
        _check_end(end, max_pieces)
        return mask_of_runs(runs)
    if form == _BITS and len(payload) >= 5:
        base = int(_HEAD.unpack_from(payload, 1)[0])
        bits = int.from_bytes(memoryview(payload)[5:], "little")
        _check_end(base + bits.bit_length(), max_pieces)
        return bits << base
    raise FrameError("pieces that are neither runs nor bits")


def _check_end(end: int, max_pieces: int) -> None:
    """Check that a version has all pieces before ``end``.

    Raises:
        FrameError: the version has fewer.
    """
    if end > max_pieces:
        raise FrameError(f"a piece {end - 1} of a version that has {max_pieces}")


def _decode_hello(payload: bytes, _: int) -> HelloFrame:
    """Return a hello.

    Raises:
        FrameError: the payload is no hello.
    """
    try:
        return HelloFrame.parse(payload)
    except SwarmError as error:
        raise FrameError(str(error)) from None


def _decode_ticket(payload: bytes, _: int) -> TicketFrame:
    """Return a ticket.

    Raises:
        FrameError: the payload is no ticket.
    """
    try:
        return TicketFrame(read_ticket(payload.decode("ascii")))
    except ValueError as error:
        raise FrameError(str(error)) from None


_REFUSALS = frozenset(RefuseReason)
_DECODERS: dict[int, Callable[[bytes, int], Control]] = {
    PING: lambda payload, pieces: PingFrame(),
    HELLO: _decode_hello,
    PROOF: lambda payload, pieces: ProofFrame(payload[:MAX_PROOF]),
    TICKET: _decode_ticket,
    HAVE: lambda payload, pieces: HaveFrame(_decode_set(payload, pieces)),
    LOST: lambda payload, pieces: LostFrame(_decode_set(payload, pieces)),
    WANT: _decode_want,
    CANCEL: lambda payload, pieces: CancelFrame(*_HEAD.unpack_from(payload)),
    REFUSE: _decode_refuse,
    BYE: lambda payload, pieces: ByeFrame(one_line(payload.decode(errors="replace"), MAX_REASON)),
}
