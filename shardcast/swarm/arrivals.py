"""The arrivals of a version's pieces at a node, alone or in ranges: read from its download's landings."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from shardcast.protocol.piece_numbers import PieceNumbers
from shardcast.store.landing import Landing
from shardcast.store.live_manifest import LiveManifest
from shardcast.swarm.links import PieceSink

_OPENING_SECONDS = 0.25
"""Seconds for which a received piece waits for its shard to be opened here."""


class Arrivals:
    """The pieces of a version's opened shards, and the local ones among them.

    Attributes:
        numbers: numbers of the version's pieces; an open version's grow.
        sink: the watched landings; None for none.
    """

    def __init__(self, live: LiveManifest) -> None:
        """Look at no landings yet; ``live`` is the version's manifest."""
        self.numbers = PieceNumbers(live.header.piece_size, live.shards)
        self.sink: PieceSink | None = None
        self._live = live
        self._opened: set[int] = set()  # shards beyond those that are closed
        self._closed = 0  # the shards up to this number are whole, and have no landing any more

    def take(self) -> tuple[int, int]:
        """Return masks: the pieces of newly opened shards, and the local ones of open and just closed shards.

        A shard opened, filled by ranges and closed between two calls counts as well.
        """
        self.numbers.extend(self._live.shards)
        if self.sink is None:
            return 0, 0
        opened = here = 0
        while self._closed < len(self._live.shards) and self.sink.is_closed(self._closed + 1):
            self._closed += 1
            pieces = self.numbers.in_shard(self._closed)
            here |= pieces
            if self._closed in self._opened:
                self._opened.discard(self._closed)
            else:
                opened |= pieces
        for landing in self.sink.open_landings:
            number = landing.shard.number
            if number not in self._opened and number > self._closed:
                self._opened.add(number)
                opened |= self.numbers.in_shard(number)
            here |= landing.verified_pieces << self.numbers.first_of(number)
        return opened, here

    def landing(self, shard: int) -> Landing | None:
        """Return the landing of an open shard; None for any other."""
        landings = self.sink.open_landings if self.sink else []
        return next((landing for landing in landings if landing.shard.number == shard), None)

    async def wait_landing(self, shard: int) -> Landing | None:
        """Return the landing of a shard about to be opened; None where it is not, or was closed.

        A server may hand out a piece of a growing version before its shard is open here.
        """
        landing = self.landing(shard)
        if landing is None and self.sink is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_OPENING_SECONDS):
                    await self.sink.wait_open(shard)
            landing = self.landing(shard)
        return landing

    def overdue(self) -> int:
        """Return the pieces, as a mask, of the shard about to keep others from being opened; 0 for none."""
        shard = self.sink.overdue_shard if self.sink else None
        return self.numbers.in_shard(shard) if shard else 0

    def everything(self) -> int:
        """Return all pieces of the version known by now, as a mask, local or not."""
        self.numbers.extend(self._live.shards)
        return self.numbers.everything
