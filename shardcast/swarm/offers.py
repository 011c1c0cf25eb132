"""The offers of a node: pieces that its neighbours were told of, and pieces still to tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from shardcast.policy.swarm.rules import SwarmRules
from shardcast.policy.swarm.telling import Telling


class Offers:
    """The offers of one version at one node; ``policy.swarm.telling`` says when to tell them.

    Attributes:
        told: the pieces that the neighbours were told of.
    """

    def __init__(self, rules: SwarmRules, clock: Callable[[], float]) -> None:
        """Offer nothing yet; ``clock`` gives seconds."""
        self.told = 0
        self._rules = rules
        self._clock = clock
        self._telling = Telling(rules)
        self._sooner = asyncio.Event()

    def add(self, mask: int, *, offered: int, answers: int) -> None:
        """Have the neighbours told of pieces.

        Args:
            mask: the pieces.
            offered: the pieces that neighbours offer.
            answers: answers that the node gives now.
        """
        new = mask & ~self.told
        if new:
            due = self._telling.due
            if self._telling.add(new, self._clock(), offered=offered, answers=answers) < due:
                self._sooner.set()

    def take(self, held: int) -> int:
        """Return the pieces to tell of now, of those that are held; none before their time."""
        now = self._clock()
        if self._telling.due > now:
            return 0
        gained = self._telling.take(now) & held & ~self.told
        self.told |= gained
        return gained

    def withdraw(self) -> int:
        """Offer nothing any more, and return the pieces that the neighbours were told of."""
        told, self.told = self.told, 0
        self._telling = Telling(self._rules)
        return told

    async def wait(self) -> None:
        """Wait until something is to be told, for the time of a batch at most."""
        pause = min(self._telling.due - self._clock(), self._rules.have_interval)
        with suppress(TimeoutError):
            async with asyncio.timeout(max(pause, 0.0)):
                await self._sooner.wait()
        self._sooner.clear()
