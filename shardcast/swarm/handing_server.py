"""A server that hands out pieces, as the exchange of a version asks it."""

from __future__ import annotations

from collections.abc import Callable

from shardcast.errors import BadAnswer
from shardcast.peer.next_range import DeclinedRange, NextRanges, NoRange
from shardcast.policy.swarm.ledger import Asked
from shardcast.protocol.next_range import NotNow, RangeHead
from shardcast.protocol.piece_numbers import PieceNumbers
from shardcast.swarm.links import HandedOut


class HandingServer:
    """One server (a ``PieceServer``).

    Attributes:
        url: its URL.
    """

    def __init__(
        self, url: str, ranges: NextRanges, numbers: PieceNumbers, get_held: Callable[[], int]
    ) -> None:
        """Ask a server for the ranges of one version.

        Args:
            url: its URL.
            ranges: asks it.
            numbers: of the version's pieces; they may grow.
            get_held: returns the pieces that are here.
        """
        self.url = url
        self._ranges = ranges
        self._numbers = numbers
        self._get_held = get_held

    async def next_piece(self, asked: Asked) -> HandedOut:
        """Ask for the next piece, and receive its bytes.

        Raises:
            PeerError: the server can't be asked, or broke off.
        """
        elsewhere = asked.under_way & self._numbers.everything
        buffer: memoryview | None = None

        def place(head: RangeHead) -> memoryview | None:
            nonlocal buffer
            number = self._number_of(head)
            if elsewhere >> number & 1:
                return None
            buffer = memoryview(bytearray(head.end - head.start))
            return buffer

        found = await self._ranges.ask(self._get_held(), place, asked=elsewhere, offered=not asked.help)
        if isinstance(found, NoRange):
            return HandedOut(exhausted=found.reason is NotNow.ALL_GIVEN, supported=found.reason is not None)
        if isinstance(found, DeclinedRange):
            return HandedOut()
        return HandedOut(self._number_of(found.head), buffer)

    def report_wrong(self, number: int) -> None:
        """Tell the server, by the next request, that a piece came wrong."""
        self._ranges.report_lost(1 << number)

    def _number_of(self, head: RangeHead) -> int:
        """Return the number of the single piece that an answer has.

        Raises:
            BadAnswer: it has something else.
        """
        try:
            number = self._numbers.number_at(head.shard, head.start)
            run = self._numbers.run(number)
        except IndexError as error:
            raise BadAnswer(self.url, f"a range that the version does not have ({error})") from None
        if (run.offset, run.end) != (head.start, head.end):
            raise BadAnswer(self.url, f"shard {head.shard}: bytes {head.start} to {head.end} are no piece")
        return number
