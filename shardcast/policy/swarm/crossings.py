"""What a server handed out to one site, and the ranges that are on their way across its border."""

from __future__ import annotations

from collections.abc import Hashable

from shardcast.policy.swarm.masks import ranges_of
from shardcast.policy.swarm.rarity import RangeCounts
from shardcast.policy.swarm.recent import RecentRanges
from shardcast.policy.swarm.rules import SwarmRules

MIN_WINDOW, MAX_WINDOW = 2.0, 1024.0
"""Ranges under way into a site, at least and at most."""
NODE_CROSSINGS = 4
"""Ranges under way into a site by one node, at most: half of its requests, the rest is for its own site."""
LONE_CROSSINGS = 24
"""The same by a node that is alone in its site, and gets everything from elsewhere: some of what it may
bring is always at neighbours that refuse it just now."""
QUICK = 0.25
"""The share of the time for a crossing that a quick one takes: the link has room for more of them."""
SLOW = 0.5
"""The share from which on ranges wait for the link: fewer are to be under way."""


class SiteRecord:
    """What a server handed out to one site.

    Ranges under way are bounded by a window that finds the rate of the link into the site: it widens with
    each quick crossing and shrinks with slow ones. A queue longer than the time for a crossing would have
    every range given anew while it still comes.

    Attributes:
        handed: the ranges handed out to the site.
        counts: how often each was.
        young: the ranges handed out just now.
        nodes: the nodes of the site that ask.
    """

    def __init__(self, rules: SwarmRules, *, home: bool) -> None:
        """Keep the record of one site.

        Args:
            rules: the numbers to go by.
            home: whether it is the server's own site, into which no range crosses a border.
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
        """Note that a range was handed out to the site."""
        self.handed |= 1 << number
        self.counts.add(1 << number)
        self.young.add(number, now)

    def take_back(self, number: int) -> None:
        """Note that a range that was handed out did not come: the site gets it anew."""
        self.handed &= ~(1 << number)
        self.young.discard(number)
        self._under_way.pop(number, None)

    def cross(self, number: int, node: Hashable, now: float) -> None:
        """Note that a node of the site brings a range across the border."""
        self._under_way.pop(number, None)
        self._under_way[number] = node, now

    def arrived(self, mask: int, now: float) -> None:
        """Note the ranges that a node of the site reports; those that were under way have crossed."""
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
        """Take back the crossings that were not finished in time, and let young ranges grow old."""
        self.young.expire(now)
        for number, (node, since) in list(self._under_way.items()):
            if now - since < self._crossing_seconds:
                break  # they are in the order of their beginnings
            self.take_back(number)
            self._late[node] = now
            self._shrink(now, 0.5)

    def _shrink(self, now: float, factor: float) -> None:
        """Narrow the window, once for all that one queue made late."""
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
        """Take back what a node that left was bringing across the border."""
        self._late.pop(node, None)
        self.nodes.discard(node)
        for number in [number for number, (carrier, _) in self._under_way.items() if carrier == node]:
            self.take_back(number)

    def forget_ranges(self, mask: int) -> None:
        """Take back ranges that only a node that left had."""
        for number in ranges_of(mask & self.handed):
            self.take_back(number)
