"""A server with pieces to hand out, in the view of a version's exchange."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from shardcast.errors import BadAnswer, ServerLacks
from shardcast.peer.next_range import DeclinedRange, NextRanges, ReceivedRange
from shardcast.policy.swarm.ledger import Asked
from shardcast.protocol.next_range import AT_ONCE_SECONDS, NotNow, RangeHead
from shardcast.protocol.piece_numbers import PieceNumbers
from shardcast.store.live_manifest import LiveManifest
from shardcast.swarm.links import HandedOut

_WAITS = 8
"""Maximum repetitions of a request, at the server's pace, while the version grows."""
_LINE_SECONDS = 0.5
"""Seconds for which a received piece waits for the manifest's line of its shard. While a version is being
made, a shard's first pieces may be handed out before this line is here; a declined one comes again."""
_KEPT_SECONDS = 1.0
"""Maximum seconds for a server to keep a request until there is a new piece."""
_MIN_KEPT_SECONDS = 0.05
"""Minimum seconds of a kept request before the node repeats it at once: without a minimum, a server could be
asked without end."""


class HandingServer:
    """One server (a ``PieceServer``).

    Attributes:
        url: URL.
    """

    def __init__(
        self,
        url: str,
        ranges: NextRanges,
        numbers: PieceNumbers,
        get_held: Callable[[], int],
        *,
        live: LiveManifest,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Ask a server for the ranges of one version.

        Args:
            url: URL of the server.
            ranges: asks the server.
            numbers: numbers of the version's pieces; they may grow.
            get_held: returns the local pieces.
            live: the version's manifest.
            sleep: waits for so many seconds.
            clock: gives seconds.
        """
        self.url = url
        self._ranges = ranges
        self._numbers = numbers
        self._get_held = get_held
        self._live = live
        self._sleep = sleep
        self._clock = clock

    async def next_piece(self, asked: Asked) -> HandedOut:
        """Ask for the next piece, and receive its bytes.

        A server keeps a request for a growing version, so new pieces go out at once. One without this ability
        is asked again for a moment, and no pause of the node doubles meanwhile. A piece received before its
        shard's line waits for the line.

        Raises:
            ServerLacks: the server has another version under the name of this one.
            PeerError: the server can't be asked, or broke off.
        """
        elsewhere = asked.under_way & self._numbers.everything
        waits = 0
        while True:
            buffer: memoryview | None = None

            def place(head: RangeHead) -> memoryview | None:
                nonlocal buffer
                number, size = self._number_of(head), head.end - head.start
                if number is None:
                    is_unwanted = size > self._numbers.piece_size
                else:
                    is_unwanted = bool((elsewhere | self._get_held()) >> number & 1)
                buffer = None if is_unwanted else memoryview(bytearray(size))
                return buffer

            began = self._clock()
            found = await self._ranges.ask(
                self._get_held(),
                place,
                asked=elsewhere,
                offered=not asked.help,
                site=asked.site,
                across=asked.across,
                wait=_KEPT_SECONDS,
            )
            if isinstance(found, DeclinedRange):
                return HandedOut()
            if isinstance(found, ReceivedRange):
                number = await self._wait_for_number(found.head)
                if number is None:
                    self._ranges.lose(found.head)
                    return HandedOut()
                return HandedOut(number, buffer)
            if claims := found.claims & asked.across:
                return HandedOut(claims=claims)
            if found.seconds <= AT_ONCE_SECONDS and self._clock() - began >= _MIN_KEPT_SECONDS:
                return HandedOut(waited=True)  # it kept the request: ask again, with what is here by now
            waits += 1
            if found.reason is not NotNow.WAIT or waits > _WAITS:
                exhausted, supported = found.reason is NotNow.ALL_GIVEN, found.reason is not None
                return HandedOut(exhausted=exhausted, supported=supported)
            await self._sleep(found.seconds)

    def report_wrong(self, number: int) -> None:
        """Tell the server, by the next request, of a piece that came wrong, or found no place here."""
        self._ranges.report_lost(1 << number)

    async def _wait_for_number(self, head: RangeHead) -> int | None:
        """Return the number of a received piece, once its shard is known; None after too long a wait.

        Raises:
            ServerLacks: the server has another version under the name of this one.
            BadAnswer: the answer has something else than a piece.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINE_SECONDS):
                while self._number_of(head) is None and not self._live.ended:
                    await self._live.wait_for_more(len(self._live.raw))
        return self._number_of(head)

    def _number_of(self, head: RangeHead) -> int | None:
        """Return the number of the single piece in an answer; None while its shard is unknown.

        Raises:
            ServerLacks: the server has another version under the name of this one.
            BadAnswer: the answer has something else than a piece.
        """
        self._numbers.extend(self._live.shards)
        if head.shard > self._numbers.shard_count:
            return None
        shard = self._live.shards[head.shard - 1]
        if (head.digest, head.size) != (shard.sha256, shard.size):
            raise ServerLacks(self.url, f"it hands out another version as {self._live.version}")
        number = self._numbers.number_at(head.shard, head.start)
        run = self._numbers.run(number)
        if (run.offset, run.end) != (head.start, head.end):
            raise BadAnswer(self.url, f"shard {head.shard}: bytes {head.start} to {head.end} are no piece")
        return number
