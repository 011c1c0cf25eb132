"""The hand-outs of a server to one site, and the ranges on their way across its border."""

from __future__ import annotations

from collections.abc import Hashable

from shardcast.policy.swarm.masks import ranges_of
from shardcast.policy.swarm.rarity import RangeCounts
from shardcast.policy.swarm.recent import RecentRanges
from shardcast.policy.swarm.rules import SwarmRules

MIN_WINDOW, MAX_WINDOW = 2.0, 1024.0
"""Ranges under way into a site, at least and at most."""
NODE_CROSSINGS = 4
"""Maximum ranges under way into a site by one node: half of its requests; the rest is for its own site."""
LONE_CROSSINGS = 24
"""The same for a node alone in its site, with all its ranges from elsewhere: some of these are always at
neighbours without a free slot."""
QUICK = 0.25
"""Maximum share of the time for a crossing that counts as quick: the link has room for more."""
SLOW = 0.5
"""Share of the time for a crossing from which on ranges wait for the link: fewer are to be under way."""


class SiteRecord:
    """The hand-outs of a server to one site.

    Ranges under way are bounded by a window that finds the rate of the link into the site: each quick
    crossing widens the window, and slow ones shrink it. With a queue longer than the time for a crossing,
    every range would be given anew while still on its way.

    Attributes:
        handed: the ranges handed out to the site.
        counts: number of hand-outs of each range.
        young: the ranges handed out just now.
        nodes: the asking nodes of the site.
    """

    def __init__(self, rules: SwarmRules, *, home: bool) -> None:
        """Keep the record of one site.

        Args:
            rules: the numbers.
            home: whether this is the server's own site, into which no range crosses a border.
        """
        self.handed = 0
        self.counts = RangeCounts()
        self.young = RecentRanges(rules.repeat_after if home else rules.crossing_seconds)
        self.nodes: set[Hashable] = set()
        self._crossing_seconds = rules.crossing_seconds
        self._under_way: dict[int, tuple[Hashable, float]] = {}
        self._window = float(rules.crossings)
        self._shrunk_at = float("-inf")
        self._late: dict[Hashable, float] = {}

    def hand(self, number: int, now: float) -> None:
        """Record a range handed out to the site."""
        self.handed |= 1 << number
        self.counts.add(1 << number)
        self.young.add(number, now)

    def take_back(self, number: int) -> None:
        """Record a hand-out without success: the site gets the range anew."""
        self.handed &= ~(1 << number)
        self.young.discard(number)
        self._under_way.pop(number, None)

    def cross(self, number: int, node: Hashable, now: float) -> None:
        """Record a range on its way across the border by a node of the site."""
        self._under_way.pop(number, None)
        self._under_way[number] = node, now

    def arrived(self, mask: int, now: float) -> None:
        """Record the ranges reported by a node of the site; those under way have crossed."""
        if not self._under_way:
            return
        for number in [number for number in self._under_way if mask >> number & 1]:
            _, since = self._under_way.pop(number)
            share = (now - since) / self._crossing_seconds
            if share <= QUICK:
                self._window = min(MAX_WINDOW, self._window + 1.0)
            elif share >= SLOW:
                self._shrink(now, 0.7)

    def expire(self, now: float) -> None:
        """Take back the crossings not finished in time, and let young ranges grow old."""
        self.young.expire(now)
        for number, (node, since) in list(self._under_way.items()):
            if now - since < self._crossing_seconds:
                break  # they are in the order of their beginnings
            self.take_back(number)
            self._late[node] = now
            self._shrink(now, 0.5)

    def _shrink(self, now: float, factor: float) -> None:
        """Narrow the window, once for all delays of one queue."""
        if now - self._shrunk_at >= SLOW * self._crossing_seconds:
            self._window = max(MIN_WINDOW, self._window * factor)
            self._shrunk_at = now

    def room(self, node: Hashable, now: float) -> int:
        """Return how many more ranges a node may bring across the border now."""
        if now - self._late.get(node, float("-inf")) < self._crossing_seconds:
            return 0
        own = sum(carrier == node for carrier, _ in self._under_way.values())
        most = NODE_CROSSINGS if len(self.nodes) > 1 else LONE_CROSSINGS
        return max(0, min(most - own, int(self._window) - len(self._under_way)))

    def forget(self, node: Hashable) -> None:
        """Take back the crossings of a node after it left."""
        self._late.pop(node, None)
        self.nodes.discard(node)
        for number in [number for number, (carrier, _) in self._under_way.items() if carrier == node]:
            self.take_back(number)

    def forget_ranges(self, mask: int) -> None:
        """Take back ranges lost with their only node."""
        for number in ranges_of(mask & self.handed):
            self.take_back(number)
