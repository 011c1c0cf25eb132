"""When to tell neighbours of new ranges: at once those new to all of them, the rest in batches.

A new range spreads hop by hop, and each hop would wait for half a batch. So a range offered by no neighbour
is told at once. This is one range in ten: all others are known to most neighbours on arrival. A node with few
answers tells all at once: in the first second of a thousand nodes, half of the idle links were of nodes whose
neighbours lacked a range of theirs, and had yet to hear of it.
"""

from __future__ import annotations

from shardcast.policy.swarm.rules import SwarmRules

NEVER = float("inf")


class Telling:
    """The ranges a node has yet to tell its neighbours.

    Attributes:
        due: time to tell them; never while there are none.
    """

    __slots__ = ("_few_answers", "_interval", "_news", "_news_interval", "_told_at", "due")

    def __init__(self, rules: SwarmRules) -> None:
        self._interval = rules.have_interval
        self._news_interval = min(rules.news_interval, rules.have_interval)
        self._few_answers = rules.few_answers
        self._told_at = -NEVER
        self._news = 0
        self.due = NEVER

    def add(self, mask: int, now: float, *, offered: int, answers: int) -> float:
        """Add new servable ranges.

        Args:
            mask: the ranges.
            now: the time, in seconds.
            offered: the ranges on offer at neighbours.
            answers: present number of the node's answers.

        Returns:
            The time to tell them.
        """
        self._news |= mask
        soon = mask & ~offered or answers < self._few_answers
        interval = self._news_interval if soon else self._interval
        self.due = min(self.due, max(now, self._told_at + interval))
        return self.due

    def take(self, now: float) -> int:
        """Return the ranges to tell now, and count them as told."""
        news, self._news = self._news, 0
        self._told_at = now
        self.due = NEVER
        return news
