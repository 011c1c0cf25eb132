"""The neighbours of a node: the offers of each, the number of offers of each range, and pauses."""

from __future__ import annotations

from collections.abc import Hashable
from random import Random

from shardcast.policy.backoff import Backoff
from shardcast.policy.swarm.rarity import RangeCounts
from shardcast.policy.swarm.rules import SwarmRules

_DISTRUST = Backoff(1.0, 60.0)
"""Pauses of a neighbour with unkept offers: asked less and less until it serves again."""


class Neighbour:
    """A neighbour, in the view of a downloading node.

    Attributes:
        key: the caller's name for the neighbour.
        near: whether the neighbour is in the same site.
        offered: the offered ranges.
        under_way: unfinished requests there.
        paused_until: end of the pause of requests.
        failures: failures since the last served range.
        banned: whether it sent wrong bytes, and is not asked again for this version.
        received: ranges received from there.
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
        near: counters of the ranges on offer in the same site.
        far: counters of the ranges on offer in other sites.
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
        """Add a neighbour without offers yet."""
        neighbour = self._by_key[key] = Neighbour(key, near=near)
        self.all.insert(int(self._random.random() * (len(self.all) + 1)), neighbour)

    def remove(self, key: Hashable) -> None:
        """Remove a departed neighbour."""
        neighbour = self._by_key.pop(key)
        self.all.remove(neighbour)
        self._uncount(neighbour, neighbour.offered)
        neighbour.offered = 0

    def offers(self, key: Hashable, mask: int) -> None:
        """Record ranges a neighbour can serve."""
        neighbour = self._by_key[key]
        new = mask & ~neighbour.offered
        if new and not neighbour.banned:
            neighbour.offered |= new
            self._count(neighbour, new)

    def withdraws(self, key: Hashable, mask: int) -> None:
        """Record ranges a neighbour can no longer serve."""
        neighbour = self._by_key[key]
        gone = mask & neighbour.offered
        self._uncount(neighbour, gone)
        neighbour.offered &= ~gone

    def refused(self, neighbour: Neighbour, now: float) -> None:
        """Record a refusal for lack of a free slot: pause the neighbour for a moment."""
        shortest, longest = self._rules.shortest_peer_pause, self._rules.longest_peer_pause
        pause = shortest + (longest - shortest) * self._random.random()
        neighbour.paused_until = max(neighbour.paused_until, now + pause)

    def let_down(self, neighbour: Neighbour, now: float) -> None:
        """Record a stalled or broken answer, or an unkept offer, of a neighbour.

        Until the neighbour serves again, its offers do not count: a false claim of having everything must not
        keep a node from asking servers for help.
        """
        if not neighbour.failures:
            self._uncount(neighbour, neighbour.offered)
        pause = _DISTRUST.spread(neighbour.failures, self._random)
        neighbour.paused_until = max(neighbour.paused_until, now + pause)
        neighbour.failures += 1

    def served(self, neighbour: Neighbour) -> None:
        """Record a right range from a neighbour; after failures, its offers count again."""
        if neighbour.failures:
            neighbour.failures = 0
            self._count(neighbour, neighbour.offered)
        neighbour.received += 1

    def ban(self, neighbour: Neighbour) -> None:
        """Record wrong bytes of a neighbour: it is not asked again for this version."""
        self._uncount(neighbour, neighbour.offered)
        neighbour.banned = True
        neighbour.offered = 0

    @property
    def across(self) -> int:
        """The ranges on offer in other sites, and nowhere in the same site."""
        far = self.far.counted
        return far and far & ~self.near.counted

    def _count(self, neighbour: Neighbour, mask: int) -> None:
        """Count a neighbour's offers, where it keeps them."""
        if not neighbour.failures:
            (self.near if neighbour.near else self.far).add(mask)

    def _uncount(self, neighbour: Neighbour, mask: int) -> None:
        """Undo the count of a neighbour's offers."""
        if not neighbour.failures:
            (self.near if neighbour.near else self.far).remove(mask)
