"""A link over a stream: calls of an exchange to frames, and frames to calls of the exchange."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

from shardcast.access.tickets import Ticket, TicketRefused
from shardcast.protocol.swarm_frames import (
    CancelFrame,
    Control,
    FrameError,
    HaveFrame,
    LostFrame,
    PingFrame,
    RefuseFrame,
    RefuseReason,
    TicketFrame,
    WantFrame,
)
from shardcast.swarm.greeting import SwarmPass
from shardcast.swarm.links import GivenPiece, Link
from shardcast.swarm.stream import SwarmStream

MAX_REQUESTS = 64
"""Maximum unfinished requests of one end."""
_TICKET_LOOK = 15.0
"""Seconds between two looks at the tickets of both ends."""
_MAX_REQUEST = 1 << 32


class PieceExchange(Protocol):
    """The handler of a neighbour's messages and pieces."""

    def add_link(self, link: Link) -> None:
        """Exchange pieces with one more neighbour."""

    def remove_link(self, link: Link) -> None:
        """Record the end of a link."""

    def offered(self, link: Link, gained: int, lost: int) -> None:
        """Record the pieces gained and lost by a neighbour, as masks."""

    def wanted(self, link: Link, number: int) -> None:
        """Give a neighbour a piece, or refuse."""

    def unwanted(self, link: Link, number: int) -> None:
        """Give a neighbour a piece no more."""

    def refused(self, link: Link, number: int, *, absent: bool) -> None:
        """End a request refused by a neighbour; ``absent``: it lacks the piece, else it is busy."""

    def progressed(self, link: Link, number: int) -> None:
        """Record new bytes of a piece."""

    def expects(self, link: Link, number: int) -> int | None:
        """Return the bytes of a requested piece; None for one never requested, or no longer."""

    async def came(self, link: Link, number: int, data: memoryview) -> None:
        """Take a requested piece."""


@dataclass(slots=True)
class _Asked:
    """A request of this end.

    Attributes:
        number: number of the piece.
        length: bytes of the piece.
        cancelled: whether the request was cancelled.
    """

    number: int
    length: int
    cancelled: bool = False


@dataclass(eq=False, slots=True)
class _Wanted:
    """A request of the neighbour.

    Attributes:
        request: request id.
        is_given: whether the piece is being sent.
        is_cancelled: whether the neighbour cancelled the request.
    """

    request: int
    is_given: bool = False
    is_cancelled: bool = False


class StreamLink:
    """A link to one neighbour over a stream; the link is the stream's user.

    Attributes:
        key: the neighbour's public key; no other can take this name.
        near: whether the neighbour is in the same site.
        ticket: the facts in the neighbour's last ticket.
    """

    def __init__(
        self,
        stream: SwarmStream,
        exchange: PieceExchange,
        ticket: Ticket,
        swarm_pass: SwarmPass,
        *,
        near: bool = False,
    ) -> None:
        """Take a stream over once both ends know each other.

        Args:
            stream: the stream; its reader must know the size of pieces.
            exchange: of the version's pieces.
            ticket: the neighbour's.
            swarm_pass: this node's.
            near: whether the neighbour is in the same site.
        """
        self.key: Hashable = ticket.key
        self.near = near
        self.ticket = ticket
        self._stream = stream
        self._exchange = exchange
        self._pass = swarm_pass
        self._shown = swarm_pass.ticket(ticket.key, ticket.signer)
        self._last = 0
        self._asked: dict[int, _Asked] = {}  # by the id of the request
        self._asking: dict[int, int] = {}  # the id of the request that is not cancelled, by the piece
        self._wanted: dict[int, _Wanted] = {}  # the neighbour's requests, by the piece
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(_TICKET_LOOK, self.look_at_tickets)
        stream.user = self

    # The link

    def tell(self, gained: int, lost: int) -> None:
        """Tell the pieces newly servable here, and those no longer servable, as masks."""
        if lost:
            self._stream.send(LostFrame(lost))
        if gained:
            self._stream.send(HaveFrame(gained))

    def want(self, number: int) -> None:
        """Ask for a piece expected by the exchange."""
        length = self._exchange.expects(self, number)
        if length is None or number in self._asking:
            return
        self._last = request = (self._last + 1) % _MAX_REQUEST
        self._asked[request] = _Asked(number, length)
        self._asking[number] = request
        self._stream.send(WantFrame(request, number))

    def cancel(self, number: int) -> None:
        """Take back the request for a piece; it ends with a refusal, or with dropped bytes."""
        request = self._asking.pop(number, None)
        if request is not None:
            self._asked[request].cancelled = True
            self._stream.send(CancelFrame(request))

    def refuse(self, number: int, *, absent: bool) -> None:
        """Refuse a piece requested by the neighbour."""
        wanted = self._wanted.pop(number, None)
        if wanted is not None:
            reason = RefuseReason.LACKS if absent else RefuseReason.BUSY
            self._stream.send(RefuseFrame(wanted.request, reason))

    async def give(self, number: int, piece: GivenPiece) -> None:
        """Send a piece requested by the neighbour, unless cancelled meanwhile.

        Raises:
            OSError: the stream ended, or the file can't be read.
        """
        wanted = self._wanted.get(number)
        if wanted is None or wanted.is_given:
            return
        wanted.is_given = True
        try:
            await self._stream.give(wanted.request, piece)
        finally:
            if self._wanted.get(number) is wanted:
                del self._wanted[number]

    def close(self, reason: str) -> None:
        """End the stream."""
        self._stream.close(reason)

    # The user of the stream

    def took(self, frame: Control) -> None:
        """Handle a small frame, mostly by a call of the exchange.

        Raises:
            FrameError: the frame must not come now.
        """
        match frame:
            case HaveFrame(pieces):
                self._exchange.offered(self, pieces, 0)
            case LostFrame(pieces):
                self._exchange.offered(self, 0, pieces)
            case WantFrame(request, number):
                self._take_want(request, number)
            case CancelFrame(request):
                self._take_cancel(request)
            case RefuseFrame(request, reason):
                self._take_refusal(request, reason)
            case TicketFrame(text):
                self._take_ticket(text)
            case PingFrame():
                pass
            case _:
                raise FrameError("a second greeting")

    def _take_want(self, request: int, number: int) -> None:
        """Take a request of the neighbour.

        Raises:
            FrameError: the neighbour has too many, or asks again for a piece not given yet.
        """
        if len(self._wanted) >= MAX_REQUESTS:
            raise FrameError(f"more than {MAX_REQUESTS} requests")
        earlier = self._wanted.get(number)
        if earlier is not None and not earlier.is_cancelled:
            raise FrameError(f"a second request for piece {number}")
        self._wanted[number] = _Wanted(request)
        self._exchange.wanted(self, number)

    def _take_cancel(self, request: int) -> None:
        """End a request of the neighbour, unless over: the frame crossed the last bytes."""
        found = [(number, wanted) for number, wanted in self._wanted.items() if wanted.request == request]
        for number, wanted in found:
            wanted.is_cancelled = True
            self._exchange.unwanted(self, number)
            if not wanted.is_given and self._wanted.pop(number, None) is not None:
                self._stream.send(RefuseFrame(request, RefuseReason.CANCELLED))

    def _take_refusal(self, request: int, reason: RefuseReason) -> None:
        """End a request refused by the neighbour, and tell the exchange unless it was cancelled here."""
        asked = self._asked.pop(request, None)
        if asked is None:
            return
        self._stream.reader.drop(request)
        if not asked.cancelled:
            self._asking.pop(asked.number, None)
            absent = reason in (RefuseReason.LACKS, RefuseReason.FAILED)
            self._exchange.refused(self, asked.number, absent=absent)

    def length_of(self, request: int) -> int:
        """Return the bytes of the piece of a request; 0 where none may come."""
        asked = self._asked.get(request)
        return asked.length if asked else 0

    def progressed(self, request: int) -> None:
        """Record new bytes of a request."""
        asked = self._asked.get(request)
        if asked and not asked.cancelled:
            self._exchange.progressed(self, asked.number)

    async def came(self, request: int, data: memoryview) -> None:
        """Hand a piece to the exchange; drop one whose request was cancelled."""
        asked = self._asked.pop(request, None)
        if asked and not asked.cancelled:
            self._asking.pop(asked.number, None)
            await self._exchange.came(self, asked.number, data)

    def ended(self, reason: str) -> None:
        """Tell the exchange of the neighbour's departure."""
        self._timer.cancel()
        self._exchange.remove_link(self)

    # Tickets

    def _take_ticket(self, text: str) -> None:
        """Take a newer ticket of the neighbour.

        Raises:
            FrameError: the text is no ticket, or another member's.
        """
        try:
            ticket = self._pass.check(text)
        except TicketRefused as error:
            raise FrameError(str(error)) from None
        if (ticket.node, ticket.key) != (self.ticket.node, self.ticket.key):
            raise FrameError("the ticket is another node's")
        self.ticket = ticket

    def look_at_tickets(self) -> None:
        """Show a newer ticket, and end the stream where the neighbour's has expired."""
        self._timer = self._loop.call_later(_TICKET_LOOK, self.look_at_tickets)
        shown = self._pass.ticket(self.ticket.key, self.ticket.signer)
        if shown != self._shown:
            self._shown = shown
            self._stream.send(TicketFrame(shown))
        if self._pass.vouchers.now(self.ticket.signer) >= self.ticket.expires:
            self._timer.cancel()
            self._stream.close("the neighbour's ticket has expired")
