"""The neighbours of a node: what each offers, how many offer each range, and when each may be asked."""

from __future__ import annotations

from collections.abc import Hashable
from random import Random

from shardcast.policy.backoff import Backoff
from shardcast.policy.swarm.rarity import RangeCounts
from shardcast.policy.swarm.rules import SwarmRules

_DISTRUST = Backoff(1.0, 60.0)
"""Pauses of a neighbour that did not keep what it offered: asked less and less until it serves again."""


class Neighbour:
    """A neighbour, as a node that downloads sees it.

    Attributes:
        key: the caller's name for it.
        near: whether it is in the same site.
        offered: the ranges that it offers.
        under_way: requests that are out there.
        paused_until: the time until which it is left alone.
        failures: how often it let the node down since it served last.
        banned: whether it sent wrong bytes, and is not asked again for this version.
        received: ranges that came from it.
    """

    __slots__ = ("banned", "failures", "key", "near", "offered", "paused_until", "received", "under_way")

    def __init__(self, key: Hashable, *, near: bool = True) -> None:
        self.key = key
        self.near = near
        self.offered = 0
        self.under_way = 0
        self.paused_until = 0.0
        self.failures = 0
        self.banned = False
        self.received = 0


class Neighbourhood:
    """The neighbours of a node.

    Attributes:
        all: the neighbours, in an order of no meaning.
        near: counters of the ranges that neighbours in the same site offer.
        far: counters of the ranges that neighbours in other sites offer.
    """

    def __init__(self, rules: SwarmRules, random: Random) -> None:
        self._rules = rules
        self._random = random
        self._by_key: dict[Hashable, Neighbour] = {}
        self.all: list[Neighbour] = []
        self.near = RangeCounts()
        self.far = RangeCounts()

    def __len__(self) -> int:
        return len(self.all)

    def __getitem__(self, key: Hashable) -> Neighbour:
        return self._by_key[key]

    def __contains__(self, key: Hashable) -> bool:
        return key in self._by_key

    def add(self, key: Hashable, *, near: bool = True) -> None:
        """Add a neighbour that offers nothing yet."""
        neighbour = self._by_key[key] = Neighbour(key, near=near)
        self.all.insert(int(self._random.random() * (len(self.all) + 1)), neighbour)

    def remove(self, key: Hashable) -> None:
        """Remove a neighbour that left."""
        neighbour = self._by_key.pop(key)
        self.all.remove(neighbour)
        self._uncount(neighbour, neighbour.offered)
        neighbour.offered = 0

    def offers(self, key: Hashable, mask: int) -> None:
        """Note that a neighbour can serve some ranges."""
        neighbour = self._by_key[key]
        new = mask & ~neighbour.offered
        if new and not neighbour.banned:
            neighbour.offered |= new
            self._count(neighbour, new)

    def withdraws(self, key: Hashable, mask: int) -> None:
        """Note that a neighbour cannot serve some ranges any more."""
        neighbour = self._by_key[key]
        gone = mask & neighbour.offered
        self._uncount(neighbour, gone)
        neighbour.offered &= ~gone

    def refused(self, neighbour: Neighbour, now: float) -> None:
        """Note that a neighbour gives as many answers as it can: it is left alone for a moment."""
        shortest, longest = self._rules.shortest_peer_pause, self._rules.longest_peer_pause
        pause = shortest + (longest - shortest) * self._random.random()
        neighbour.paused_until = max(neighbour.paused_until, now + pause)

    def let_down(self, neighbour: Neighbour, now: float) -> None:
        """Note that a neighbour stalled, broke off, or had not what it offered.

        Until it serves again its offers do not count: a neighbour that only says that it has everything must
        not keep a node from asking servers for help.
        """
        if not neighbour.failures:
            self._uncount(neighbour, neighbour.offered)
        pause = _DISTRUST.spread(neighbour.failures, self._random)
        neighbour.paused_until = max(neighbour.paused_until, now + pause)
        neighbour.failures += 1

    def served(self, neighbour: Neighbour) -> None:
        """Note that a range came from a neighbour, and was right."""
        if neighbour.failures:
            neighbour.failures = 0
            self._count(neighbour, neighbour.offered)
        neighbour.received += 1

    def ban(self, neighbour: Neighbour) -> None:
        """Note that a neighbour sent wrong bytes: it is not asked again for this version."""
        self._uncount(neighbour, neighbour.offered)
        neighbour.banned = True
        neighbour.offered = 0

    @property
    def across(self) -> int:
        """The ranges that neighbours in other sites offer, and none in the same site does."""
        far = self.far.counted
        return far and far & ~self.near.counted

    def _count(self, neighbour: Neighbour, mask: int) -> None:
        """Count what a neighbour offers, where it keeps what it offers."""
        if not neighbour.failures:
            (self.near if neighbour.near else self.far).add(mask)

    def _uncount(self, neighbour: Neighbour, mask: int) -> None:
        """Take back what was counted of a neighbour's offers."""
        if not neighbour.failures:
            (self.near if neighbour.near else self.far).remove(mask)
