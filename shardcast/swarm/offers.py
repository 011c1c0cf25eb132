"""The offers of a node: pieces told to its neighbours, and pieces still to tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from shardcast.policy.swarm.rules import SwarmRules
from shardcast.policy.swarm.telling import Telling


class Offers:
    """The offers of one version at one node; ``policy.swarm.telling`` decides when to tell them.

    Attributes:
        told: the pieces told to the neighbours.
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
            offered: the pieces on offer at neighbours.
            answers: present number of the node's answers.
        """
        new = mask & ~self.told
        if new:
            due = self._telling.due
            if self._telling.add(new, self._clock(), offered=offered, answers=answers) < due:
                self._sooner.set()

    def take(self, held: int) -> int:
        """Return the held pieces to tell now; none before their time."""
        now = self._clock()
        if self._telling.due > now:
            return 0
        gained = self._telling.take(now) & held & ~self.told
        self.told |= gained
        return gained

    def withdraw(self) -> int:
        """Offer nothing any more, and return the pieces told to the neighbours."""
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
