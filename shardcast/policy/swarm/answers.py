"""Simultaneous answers of a node: a maximum in all and a maximum to one asker; the rest is refused."""

from __future__ import annotations

from collections.abc import Hashable

from shardcast.policy.swarm.rules import SwarmRules


class AnswerSlots:
    """The unfinished answers of a node.

    A refusal costs the asker a round trip. A queued answer would cost a request, and keep the asker from a
    neighbour with time to spare.
    """

    __slots__ = ("_askers", "_limit", "_limit_of_asker", "under_way")

    def __init__(self, rules: SwarmRules) -> None:
        self._limit = rules.answers
        self._limit_of_asker = rules.asker_answers
        self._askers: dict[Hashable, int] = {}
        self.under_way = 0

    def free_for(self, asker: Hashable) -> bool:
        """Return whether there is a slot for another answer to ``asker``."""
        return self.under_way < self._limit and self._askers.get(asker, 0) < self._limit_of_asker

    def begin(self, asker: Hashable) -> bool:
        """Take a slot for an answer to ``asker``; return False to refuse the request."""
        if not self.free_for(asker):
            return False
        self._askers[asker] = self._askers.get(asker, 0) + 1
        self.under_way += 1
        return True

    def end(self, asker: Hashable) -> None:
        """Free the slot of an answer after its end or failure."""
        given = self._askers[asker]
        if given == 1:
            del self._askers[asker]
        else:
            self._askers[asker] = given - 1
        self.under_way -= 1
