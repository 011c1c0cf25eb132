"""The pieces on their way from a node to its neighbours, and their slots."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

from shardcast.concurrency import cancel
from shardcast.policy.swarm.answers import AnswerSlots
from shardcast.swarm.links import GivenPiece, Link


class Gifts:
    """The unfinished answers of one version's exchange.

    Attributes:
        given: bytes given to each neighbour, by key.
    """

    def __init__(self, slots: AnswerSlots) -> None:
        """Give nothing yet; ``slots`` are those of the answers of all versions together."""
        self.given: dict[Hashable, int] = {}
        self._slots = slots
        self._tasks: dict[tuple[Hashable, int], asyncio.Task[None]] = {}

    @property
    def under_way(self) -> int:
        """The unfinished answers of all versions together."""
        return self._slots.under_way

    def give(self, link: Link, number: int, piece: GivenPiece) -> bool:
        """Begin to send a piece; return False without a slot, or for a piece on its way to there already."""
        key = link.key, number
        if key in self._tasks or not self._slots.begin(link.key):
            return False
        self._tasks[key] = task = asyncio.ensure_future(self._send(link, number, piece))

        # Not in the task itself: one cancelled in the same moment never runs.
        def end(_: asyncio.Task[None]) -> None:
            self._slots.end(link.key)
            del self._tasks[key]

        task.add_done_callback(end)
        return True

    def cancel(self, link: Link, number: int) -> None:
        """Stop sending a piece, unless its first bytes are on their way."""
        if task := self._tasks.get((link.key, number)):
            task.cancel()

    def cancel_all(self, link: Link) -> None:
        """Send nothing more to a departed neighbour."""
        for key, task in self._tasks.items():
            if key[0] == link.key:
                task.cancel()

    async def end(self) -> None:
        """Send nothing more."""
        await cancel(list(self._tasks.values()))

    async def _send(self, link: Link, number: int, piece: GivenPiece) -> None:
        """Send a piece; a failure closes the link."""
        try:
            await link.give(number, piece)
            self.given[link.key] = self.given.get(link.key, 0) + piece.length
        except OSError as error:
            link.close(str(error))
